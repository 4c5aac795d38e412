"""Sampling by vLLM's offline engine: requests in, responses out. Not verified on hardware: vLLM needs a GPU.

Written against vLLM's source as of 2026: `LLM.generate(prompts, sampling_params, *, use_tqdm)`, prompts as
`{"prompt_token_ids": [...]}`, one `SamplingParams` per prompt, answers in the order of the prompts, each with
`outputs[0].token_ids` (end of sequence included) and `.finish_reason` (`stop`, `length`, `abort`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ibpo.errors import IbpoError
from ibpo.rollouts.prompts import PromptWriter
from ibpo.rollouts.sampler import Request, Sampled, seed_of
from ibpo.rollouts.scoring import rollout_of_ids


class VLLMSampler:
    """Answers requests by an offline engine, `batch_size` at a time; the engine schedules within a batch.

    Every request has a seed of its own. The prefix is forced as the last tokens of the prompt, and its tokens count
    for `max_tokens` and for the completion's length, as they do with transformers.
    """

    def __init__(
        self,
        llm: Any,
        make_params: Callable[..., Any],
        writer: PromptWriter,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int = 1024,
        max_model_len: int | None = None,
    ) -> None:
        """Take an engine; `load_vllm` makes one.

        Args:
            llm: the engine.
            make_params: `vllm.SamplingParams`.
            writer: writes the prompts, with the same tokenizer.
            max_tokens: of a completion, prefix included.
            temperature: 0 is greedy.
            seed: of all requests.
            batch_size: what a kill can lose at most.
            max_model_len: the engine's; longer prompts are refused one by one instead of all together.
        """
        self.llm, self.make_params, self.writer = llm, make_params, writer
        self.max_tokens, self.temperature = max_tokens, temperature
        self.seed, self.batch_size, self.max_model_len = seed, batch_size, max_model_len

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`."""
        for start in range(0, len(requests), self.batch_size):
            yield from self._sample(requests[start : start + self.batch_size])

    def _sample(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        asked: list[tuple[Request, list[int], list[int]]] = []
        for request in requests:
            prompt, prefix = self.writer.ids(request)
            where = f"problem {request.problem.problem_id}"
            if len(prefix) >= self.max_tokens:
                yield IbpoError(f"{where}: its prefix of {len(prefix)} tokens leaves none of {self.max_tokens}")
            elif self.max_model_len is not None and len(prompt) + self.max_tokens > self.max_model_len:
                yield IbpoError(
                    f"{where}: {self.max_tokens} tokens after the {len(prompt)} of the prompt exceed the engine's "
                    f"{self.max_model_len}; raise max_model_len or leave the problem out"
                )
            else:
                asked.append((request, prompt, prefix))
        if not asked:
            return
        try:
            outputs = self.llm.generate(
                [{"prompt_token_ids": [*prompt, *prefix]} for _, prompt, prefix in asked],
                [self._params(request, prefix) for request, _, prefix in asked],
                use_tqdm=False,
            )
        except ValueError as error:  # a request that the engine refuses stops its whole batch
            said = next(iter(str(error).splitlines()), "")[:200]
            yield from (IbpoError(f"problem {request.problem.problem_id}: refused: {said}") for request, _, _ in asked)
            return
        for (request, prompt, prefix), output in zip(asked, outputs, strict=True):
            yield self._sampled(request, prompt, prefix, output.outputs[0])

    def _params(self, request: Request, prefix: list[int]) -> Any:
        # All said here: an engine's own defaults come from the model's generation_config (top_p, top_k, penalties).
        return self.make_params(
            n=1,
            temperature=self.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            max_tokens=self.max_tokens - len(prefix),
            seed=seed_of(request, self.seed),
        )

    def _sampled(self, request: Request, prompt: list[int], prefix: list[int], output: Any) -> Sampled:
        ids = [*prefix, *output.token_ids]
        # "abort" and whatever else is not a response that ended by itself.
        ends = ids[-1:] if output.finish_reason == "stop" else ()
        rollout = rollout_of_ids(self.writer.tokenizer, request.problem.problem_id, prompt, ids, eos_token_ids=ends)
        return Sampled.of_rollout(request, rollout)


def load_vllm(path: str, *, dtype: str = "auto", max_model_len: int | None = None, seed: int = 0) -> tuple[Any, Any]:
    """An offline engine on one GPU, and `vllm.SamplingParams`; code that comes with a model is not run.

    Raises:
        IbpoError: where vLLM is not installed or its engine does not start.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise IbpoError(
            f"sampling by vLLM needs it: pip install vllm, in an environment of its own ({error}); "
            "or serve the model by vLLM and sample by engine = 'endpoint'"
        ) from None
    try:
        llm = vllm.LLM(model=path, dtype=dtype, max_model_len=max_model_len, seed=seed, trust_remote_code=False)
    except Exception as error:  # whatever a driver, the memory or the model brings up
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise IbpoError(f"{path}: vLLM's engine does not start: {said}") from None
    return llm, vllm.SamplingParams
