"""Details of Hugging Face's lighteval (`--save-details`), as version 0.13.0 writes them.

`OUTPUT/details/MODEL/DATE/details_TASK_DATE.parquet`, one row per document: `doc` (query, choices, gold_index, id,
generation_size, ...), `model_response` (text, text_post_processed, output_tokens: a list per sample) and `metric`
(name -> value). The flat layout of older versions (`full_prompt`, `predictions`, ...) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.evaluation.import_lm_eval import gold_of, read_answer
from ibpo.tasks import Row

FILE = re.compile(r"details_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.\-:]+\.parquet$")
OLD = {"full_prompt", "predictions", "cont_tokens"}


def is_lighteval(path: Path, row: dict[str, Any]) -> bool:
    """Whether this is such a file, by its first row.

    Raises:
        IbpoError: for the layout of older versions.
    """
    if set(row) >= OLD:
        raise IbpoError(
            f"{path}: details in the layout of an older lighteval; run it again with a newer one (0.13 is known)"
        )
    return {"doc", "model_response", "metric"} <= set(row)


def lighteval_rows(path: Path, rows: Iterable[Row], *, metric: str = "") -> list[dict[str, Any]]:
    """One dict per response; see `plain_rows`.

    A document with one response carries its metric as the reward; of several each is judged by itself against the gold,
    because the metric (pass@k, maj@n) is one number for all of them.

    Args:
        path: The file; its folders name the configuration, its name the task.
        rows: Of the file.
        metric: Name of the metric that is the reward; "": the first whose value lies in [0, 1].

    Raises:
        IbpoError: names place, field and mend.
    """
    found: list[dict[str, Any]] = []
    named = FILE.search(path.name)
    for number, (place, row) in enumerate(rows):
        doc, response = row["doc"], row["model_response"]
        texts = response.get("text_post_processed") or response.get("text") or []
        raw = response.get("text") or texts
        tokens = response.get("output_tokens") or []
        if not texts or not isinstance(texts[0], str):
            raise IbpoError(
                f"{place}: field 'model_response.text': holds no generated text; a multiple-choice task compares "
                "likelihoods and has no cost: give details of a generative task"
            )
        if tokens and not isinstance(tokens[0], list):
            tokens = [tokens]
        specific = doc.get("specific") or {}
        for i, text in enumerate(texts):
            spent = len(tokens[i]) if i < len(tokens) else None
            room = doc.get("generation_size")
            found.append(
                {
                    "place": place,
                    "part": str(doc.get("task_name") or (named["task"] if named else "")),
                    "configuration": _model(path),
                    "problem": str(doc.get("id") or number),
                    "hash": doc.get("query"),
                    "reward": _metric(place, row["metric"], metric) if len(texts) == 1 else None,
                    "answer": read_answer(text),
                    "gold": _gold(doc),
                    "tokens": spent or None,
                    "truncated": float(spent >= room) if spent and room else None,
                    "level": str(specific.get("level") or "").removeprefix("Level "),
                    "domain": str(specific.get("subject") or specific.get("type") or ""),
                    "prompt": str(doc.get("query") or ""),
                    "completion": raw[i] if i < len(raw) else text,
                }
            )
    return found


def _model(path: Path) -> str:
    """MODEL of `details/MODEL/DATE/details_....parquet`; it may have a slash."""
    parts = path.resolve().parts
    if "details" in parts[:-2]:
        at = len(parts) - 1 - parts[::-1].index("details")
        return "/".join(parts[at + 1 : -2]) or path.stem
    return path.stem


def _gold(doc: dict[str, Any]) -> str | None:
    choices, index = doc.get("choices") or [], doc.get("gold_index")
    index = index[0] if isinstance(index, list) and index else index
    return gold_of(choices[index]) if isinstance(index, int) and 0 <= index < len(choices) else None


def _metric(place: str, metrics: Any, metric: str) -> float:
    known = metrics if isinstance(metrics, dict) else {}
    for name in [metric] if metric else list(known):
        value = known.get(name)
        if isinstance(value, bool | int | float) and 0 <= value <= 1:
            return float(value)
    listed = ", ".join(known) or "none"
    raise IbpoError(
        f"{place}: no metric {metric or 'in [0, 1]'}; the row's metrics are {listed}: name one with --metric"
    )
