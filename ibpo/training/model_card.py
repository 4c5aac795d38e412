"""The model card of a trained policy: what it was trained by, from what, on which response groups, in which budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from huggingface_hub import ModelCard, ModelCardData

from ibpo import __version__
from ibpo.budget import parse_budget_entry
from ibpo.training.config import IBPOConfig
from ibpo.training.lower_level import DEFAULT_MIN_GAIN
from ibpo.types import ResponseGroup

TITLE = "Think Smarter not Harder: Adaptive Reasoning with Inference Aware Optimization"
BIBTEX = f"""@inproceedings{{yu2025think,
  title     = {{{TITLE}}},
  author    = {{Yu, Zishun and Xu, Tengyu and Jin, Di and Sankararaman, Karthik Abinav and He, Yun and Zhou, Wenxuan and
               Zeng, Zhouhao and Helenowski, Eryk and Zhu, Chen and Wang, Sinong and Ma, Hao and Fang, Han}},
  booktitle = {{International Conference on Machine Learning}},
  year      = {{2025}},
  note      = {{arXiv:2501.17974}}
}}"""


def write_model_card(
    directory: Path,
    name: str,
    base_model: str,
    groups: Sequence[ResponseGroup],
    args: IBPOConfig,
    *,
    dataset: str | None = None,
    tags: Sequence[str] = (),
) -> None:
    """Write `README.md` into a model's folder.

    Args:
        directory: the model's folder.
        name: of the trained model.
        base_model: hub id or folder that the training began with; "" where it is not known.
        groups: the response groups, the standard one first.
        args: of the training.
        dataset: hub id of the data set, where there is one.
        tags: more tags of the hub.
    """
    # A folder of this machine is nothing that a reader could look up: its last part names it.
    is_hub_id = bool(base_model) and not Path(base_model).is_dir() and base_model.count("/") <= 1
    base = f"[{base_model}](https://huggingface.co/{base_model})" if is_hub_id else f"`{Path(base_model).name}`"
    table: Any = args.budget or {}
    budgets = [str(parse_budget_entry(key, amount)) for key, amount in table.items()]
    about = ModelCardData(
        base_model=base_model if is_hub_id else None,
        datasets=dataset,
        library_name="transformers",
        model_name=name,
        tags=sorted({"ibpo", "trl", "generated_from_trainer", *tags}),
    )
    estimated = args.min_gain is None and args.utility == "regression"
    least_gain = "estimated" if estimated else f"{DEFAULT_MIN_GAIN if args.min_gain is None else args.min_gain:g}"
    lines = [
        "---", about.to_yaml(), "---", "",
        f"# {name}", "",
        f"Trained by IBPO (inference-budget-constrained policy optimisation){f', from {base}' if base_model else ''}. "
        "For each prompt the model chooses one of these ways of responding by itself, "
        + ("so that all its responses together keep a budget." if budgets else "without a budget."), "",
        "| response group | its responses begin with | its instruction |", "|---|---|---|",
        *(f"| {g.name} | `{_cell(g.prefix)}` | {_cell(g.instruction) or 'none'} |" for g in groups), "",
        "Budget in training: " + (", ".join(f"`{budget}`" for budget in budgets) or "none") + ".", "",
        f"Sample it at temperature {args.temperature:g} without top-p, top-k and penalties, as in training: these "
        "change how often it chooses each response group. `ibpo eval` measures shares, tokens and accuracy on your "
        "task.", "",
        "## Training", "",
        f"- utility `{args.utility}`, `min_gain` {least_gain}, window of {args.window} batches",
        f"- weights: prefixes {args.prefix_loss_weight:g}, completions {args.completion_loss_weight:g}, KL penalty "
        f"{args.kl_weight_start:g} to {args.kl_weight:g} on {args.kl_share:.0%} of the prompts",
        f"- learning rate {args.learning_rate:g}, {args.num_generations} responses a prompt, seed {args.seed}",
        f"- ibpo {__version__}, TRL {trl.__version__}, Transformers {transformers.__version__}, "
        f"PyTorch {torch.__version__}", "",
        "## Citation", "",
        f"The method is that of [{TITLE}](https://huggingface.co/papers/2501.17974):", "",
        "```bibtex", BIBTEX, "```", "",
    ]  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    ModelCard("\n".join(lines)).save(directory / "README.md")


def _cell(text: str) -> str:
    """Text as a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
