"""A trainer on a tiny random model: your reward function, your response groups and your data through real updates."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ibpo.errors import IbpoError
from ibpo.testing.policy import problems
from ibpo.types import Problem, ResponseGroup

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from ibpo.training import IBPOTrainer

PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"
OPENS, ENDS = 0.45, 0.15
"""Parts of the tokens that the random model writes: those that open a response group, those that end a response."""


def tiny_tokenizer(response_groups: Iterable[ResponseGroup] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of letters, in which the prefix of each response group is one token; needs `ibpo[train]`."""
    _check()
    from tokenizers import AddedToken, Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    prefixes = [group.prefix for group in response_groups if group.prefix]
    words = [PAD, END, UNKNOWN, *dict.fromkeys(prefixes), *string.printable]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_tokens([AddedToken(prefix, normalized=False) for prefix in dict.fromkeys(prefixes)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, padding_side="left"
    )


def tiny_model(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> PreTrainedModel:
    """A random causal language model of some 10,000 weights, which opens its responses as the tokenizer's groups do.

    Args:
        tokenizer: Tokenizer from `tiny_tokenizer`.
        seed: Seed of the weights.
    """
    _check()
    import torch
    from transformers import PhiConfig, PhiForCausalLM

    ids = tokenizer.get_vocab()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = PhiConfig(
            vocab_size=len(ids),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=1024,
            pad_token_id=ids[PAD],
            eos_token_id=ids[END],
            bos_token_id=None,
        )
        model = PhiForCausalLM(config)
    first = [i for word, i in ids.items() if word not in (PAD, END, UNKNOWN, *string.printable)]
    others = len(ids) - len(first) - 3
    with torch.no_grad():
        bias = model.lm_head.bias
        bias.fill_(math.log((1 - OPENS - ENDS) / others))
        bias[[ids[PAD], ids[UNKNOWN]]] = -30.0
        bias[ids[END]] = math.log(ENDS)
        for i in first:
            bias[i] = math.log(OPENS / len(first))
    return model


def trainer(
    reward_funcs: Callable[..., Sequence[float | None]] | Sequence[Any],
    response_groups: Sequence[ResponseGroup],
    output_dir: str | Path,
    *,
    budget: Mapping[str, Any] | None = None,
    dataset: Any = None,
    **options: Any,
) -> IBPOTrainer:
    """`IBPOTrainer` on a tiny random model, for a few updates in seconds on a CPU; needs `ibpo[train]`.

    The trainer, its allocation and its update are the real ones; what the model writes is noise that opens as your
    response groups do. So it shows whether a reward function, a data set, a budget and a callback go together, not
    whether training pays.

    Args:
        reward_funcs: Yours, as for `IBPOTrainer`.
        response_groups: Yours, two or more.
        output_dir: Where the trainer writes.
        budget: As for `IBPOConfig`; half of the responses by the last group by default.
        dataset: Rows with `prompt`; by default 16 sums of `ibpo.testing.problems` with `answer`, `problem_id` and
            `level`.
        **options: As for `IBPOConfig`. By default two updates of four prompts with four responses of at most 16 tokens.

    Example:
        >>> import tempfile
        >>> groups = [ResponseGroup(name="short", prefix="<answer>"), ResponseGroup(name="long", prefix="<think>")]
        >>> def reward(completions, **columns):
        ...     return [float("7" in text) for text in completions]
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
        ...     trainer(reward, groups, folder, max_steps=1).train().global_step
        1
    """
    _check()
    if len(response_groups) < 2:
        raise IbpoError("response_groups: give two or more, the standard one first")
    import torch
    from datasets import Dataset

    from ibpo.training import IBPOConfig, IBPOTrainer

    settings: dict[str, Any] = {
        "output_dir": str(output_dir),
        "budget": {response_groups[-1].name: 0.5} if budget is None else dict(budget),
        "max_steps": 2,
        "num_generations": 4,
        "per_device_train_batch_size": 16,
        "max_completion_length": 16,
        "learning_rate": 1e-3,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    rows = [_row(problem) for problem in problems(16)] if dataset is None else dataset
    tokenizer = tiny_tokenizer(response_groups)
    torch.manual_seed(0)
    return IBPOTrainer(
        model=tiny_model(tokenizer),
        reward_funcs=reward_funcs,
        response_groups=list(response_groups),
        args=IBPOConfig(**(settings | options)),
        train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
        processing_class=tokenizer,
    )


def _row(problem: Problem) -> dict[str, Any]:
    return {
        "prompt": problem.prompt,
        "answer": problem.answer,
        "problem_id": problem.problem_id,
        "level": problem.level,
    }


def _check() -> None:
    for name in ("datasets", "torch", "trl"):
        if find_spec(name) is None:
            raise IbpoError(f"ibpo.testing.trainer needs the package {name}: pip install 'ibpo[train]'")
