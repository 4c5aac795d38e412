"""Sample files of EleutherAI's lm-evaluation-harness (`--log_samples`), as version 0.4.13 writes them.

`OUTPUT/MODEL/samples_TASK_DATE.jsonl`, one row per document and filter: `doc_id`, `doc`, `target`, `arguments`,
`resps` (requests x repeats), `filtered_resps`, `filter`, `metrics` (their names), `doc_hash`, and the value of each
metric under its name. The files hold no token counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.responses import boxed, last_number
from ibpo.tasks import Row

FILE = re.compile(r"samples_(?P<task>.+?)_\d{4}-\d\d-\d\dT[\d.\-:]+\.jsonl(\.gz)?$")


def is_lm_eval(path: Path, row: dict[str, Any]) -> bool:
    """Whether this is such a file, by its first row."""
    del path
    return {"doc_id", "doc", "resps", "filtered_resps"} <= set(row)


def lm_eval_rows(path: Path, rows: Iterable[Row], *, metric: str = "", wanted_filter: str = "") -> list[dict[str, Any]]:
    """One dict per response; see `plain_rows`.

    A row with one response carries its metric as the reward. Where a document was answered repeatedly the metric is one
    number for all of them, so each response is judged by itself against the target.

    Args:
        path: The file; its folder names the configuration, its name the task.
        rows: Of the file.
        metric: Name of the metric that is the reward; "": the row's first.
        wanted_filter: Name of the filter whose answers count; "": the file's first.

    Raises:
        IbpoError: names place, field and mend.
    """
    found: list[dict[str, Any]] = []
    named = FILE.search(path.name)
    for place, row in rows:
        wanted_filter = wanted_filter or str(row.get("filter", ""))
        if str(row.get("filter", "")) != wanted_filter:
            continue
        texts, filtered = _texts(place, row)
        doc = row["doc"] if isinstance(row["doc"], dict) else {}
        level = str(doc.get("level", "") or "").removeprefix("Level ")
        for text, answer in zip(texts, filtered, strict=True):
            found.append(
                {
                    "place": place,
                    "part": named["task"] if named else "",
                    "configuration": path.parent.name or path.stem,
                    "problem": str(row["doc_id"]),
                    "hash": row.get("doc_hash"),
                    "reward": _metric(place, row, metric) if len(texts) == 1 else None,
                    "answer": answer,
                    "gold": gold_of(row.get("target")),
                    "level": level.replace("?", ""),
                    "domain": str(doc.get("subject") or doc.get("type") or ""),
                    "prompt": _prompt(row, doc),
                    "completion": text,
                }
            )
    if not found:
        raise IbpoError(f"{path}: no row of filter {wanted_filter!r}; name another with --metric METRIC,FILTER")
    return found


def gold_of(target: Any) -> str | None:
    r"""The answer in a target: after the last "####" (GSM8K), else what its last box holds, else all of it.

    Example:
        >>> gold_of("48 / 2 = 24\n#### 24"), gold_of(r"so $\boxed{7}$"), gold_of("8")
        ('24', '7', '8')
    """
    if target is None:
        return None
    text = str(target)
    if "####" in text:
        return text.rpartition("####")[2].strip()
    return boxed(text) or text.strip()


def read_answer(text: str) -> str | None:
    """The answer in a response: its last box, else its last number."""
    return boxed(text) or last_number(text)


def _texts(place: str, row: dict[str, Any]) -> tuple[list[str], list[str | None]]:
    """The responses of the row's one request, and what the filter left of each."""
    resps, filtered = row["resps"], row["filtered_resps"]
    texts = resps[0] if isinstance(resps, list) and len(resps) == 1 else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not texts:
        raise IbpoError(
            f"{place}: field 'resps': holds no generated text; a multiple-choice task compares likelihoods and has no "
            "cost: give a file of a task of type generate_until"
        )
    left = filtered[0] if isinstance(filtered, list) and filtered else None
    if isinstance(left, list) and len(left) == len(texts):
        return texts, [_answer(answer) for answer in left]
    if len(texts) == 1 and isinstance(left, str):
        return texts, [_answer(left)]
    return texts, [read_answer(text) for text in texts]


def _answer(text: Any) -> str | None:
    answer = str(text).strip()
    if answer in ("", "[invalid]"):  # what the harness's regex filter says where nothing matched
        return None
    return answer if len(answer) <= 200 else read_answer(answer)


def _metric(place: str, row: dict[str, Any], metric: str) -> float:
    names = [metric] if metric else list(row.get("metrics") or ())
    for name in names:
        value = row.get(name)
        if isinstance(value, bool | int | float) and 0 <= value <= 1:
            return float(value)
    known = ", ".join(map(str, row.get("metrics") or ())) or "none"
    raise IbpoError(
        f"{place}: no metric {metric or 'in [0, 1]'}; the row's metrics are {known}: name one with --metric"
    )


def _prompt(row: dict[str, Any], doc: dict[str, Any]) -> str:
    for name in ("question", "problem", "query"):
        if isinstance(doc.get(name), str):
            return doc[name]
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0", {}).get("arg_0", "") if isinstance(arguments, dict) else ""
    return str(first)
