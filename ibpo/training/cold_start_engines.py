"""Who writes a cold start's solutions, where it is not transformers in this process: a server, or vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ibpo.endpoint import Endpoint, read_api_key
from ibpo.responses.voting_forms import FORMS
from ibpo.rollouts.endpoint import EndpointSampler, Forcing
from ibpo.rollouts.prompts import PromptWriter, renderer
from ibpo.rollouts.vllm_engine import VLLMSampler, load_vllm
from ibpo.training.cold_start_recipe import ColdStartConfig, SampleConfig

FORCINGS: dict[str, Forcing] = {"render": "render", "prefill": "prefill", "none": "none"}


def endpoint_sampler(config: ColdStartConfig, writer: PromptWriter, model_path: str) -> EndpointSampler:
    """Of the server that the recipe names.

    Raises:
        IbpoError: where the key cannot be read.
    """
    del model_path  # the server has the model
    sample = config.sample
    # Where the text is rendered here, the template's options go into it.
    to_server = {"extra_body": {"chat_template_kwargs": dict(config.template)}}
    return EndpointSampler(
        endpoint=Endpoint(
            base_url=sample.base_url,
            model=sample.served_model or config.model.path,
            api_key=read_api_key(sample.api_key_file, "sample.api_key_file"),
            num_concurrent=sample.num_concurrent,
            price_per_million=(sample.price_prompt, sample.price_completion),
        ),
        max_tokens=sample.max_tokens,
        temperature=sample.temperature,
        seed=sample.seed,
        response_groups=writer.response_groups,
        forcing=FORCINGS[sample.forcing],
        render=renderer(writer),
        options=to_server if config.template and sample.forcing != "render" else {},
    )


def vllm_sampler(config: ColdStartConfig, writer: PromptWriter, model_path: str) -> VLLMSampler:
    """By vLLM's offline engine, on this machine's GPU.

    Raises:
        IbpoError: where it is not installed or does not start.
    """
    sample = config.sample
    llm, make_params = load_vllm(model_path, dtype=config.model.dtype, seed=sample.seed)
    return VLLMSampler(
        llm,
        make_params,
        writer,
        max_tokens=sample.max_tokens,
        temperature=sample.temperature,
        seed=sample.seed,
        batch_size=sample.batch_size,
    )


def sample_settings(config: ColdStartConfig) -> dict[str, Any]:
    """What makes solutions comparable; the engine and its batches may change between a run and its rerun."""
    sample, form = config.sample, FORMS[config.build.form]
    return {
        "model": config.model.path,
        "form": form.name,
        "instruction": form.standard.instruction,
        "temperature": sample.temperature,
        "max_tokens": sample.max_tokens,
        "force_opening": sample.force_opening,
        "template": dict(config.template),
        "data": config.data.path,
        "problem": config.data.problem or "question",  # as stores of before have it
        "id": config.data.id,
    } | {key: value for key in ("task", "config", "split", "template") if (value := getattr(config.data, key))}


def bill_of(rows: Sequence[Mapping[str, Any]], sample: SampleConfig) -> dict[str, Any]:
    """What the stored solutions cost, those of earlier calls included; requests that failed left nothing to count.

    Where the server did not tell the usage of a response, tokens and cost are None, unknown, and `num_unmetered` says
    of how many. Stores of before have 0 there.
    """
    counts = [(row["num_prompt_tokens"], row["num_completion_tokens"]) for row in rows]
    unmetered = sum(prompt is None or completion is None or prompt == 0 for prompt, completion in counts)
    prompt, completion = (None, None) if unmetered else (sum(p for p, _ in counts), sum(c for _, c in counts))
    cost = None
    if prompt is not None and completion is not None:
        cost = (prompt * sample.price_prompt + completion * sample.price_completion) / 1e6
    return {
        "num_responses": len(rows),
        "num_unmetered": unmetered,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost": cost,
    }
