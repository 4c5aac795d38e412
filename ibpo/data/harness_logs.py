"""Logs of evaluation harnesses and trainers, as rows of ours.

Each `convert_*` takes the good rows of one file and hands on those that are responses: besides what was there `effort`
or `configuration`, `problem_id`, `reward`, or `answer` and `gold` to judge by, `tokens` and what else is known. Known
versions: lm-evaluation-harness 0.4.5 and 0.4.13, lighteval 0.13.0 (the flat layout of older ones is refused), Inspect's
logs of version 2, promptfoo's of version 3.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ibpo.data.fields import (
    Json,
    first_of,
    known,
    lookup,
    prompt_counts,
    read_object,
    read_prompt,
    read_text,
    read_usage,
    read_user_turns,
)
from ibpo.data.files import (
    NUM_PEEKED,
    LogError,
    RawRow,
    Row,
    Source,
    parse_json,
    partition_of,
    pyarrow_for,
    read_document,
)

LM_EVAL_FILE = re.compile(r"samples_(?P<task>.+?)_(?P<date>\d{4}-\d\d-\d\dT[\d.\-:]+)\.jsonl(\.gz)?$")
LIGHTEVAL_FILE = re.compile(r"details_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.\-:]+\.parquet$")
MAX_LABEL = 60
"""Letters of a prompt's label that name a configuration; without one of its own it is the whole prompt."""
ZSTD = 93
"""Method of a zip's member that the standard library of Python 3.11 cannot unpack."""
LM_EVAL_COLUMNS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
                   "prompt_hash", "target_hash"}  # fmt: skip
"""What a row of lm-evaluation-harness holds besides its metrics."""
SCORERS = ("scorers", "scorer")
"""Types of the spans of Inspect in which answers are scored."""
GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Inspect's correct, incorrect, partial, no answer."""


# --- lm-evaluation-harness: samples_TASK_DATE.jsonl, one row per document and filter ---


def is_lm_eval(row: Json) -> bool:
    """A row of `--log_samples`."""
    return {"doc_id", "doc", "resps", "filtered_resps"} <= set(row)


def convert_lm_eval(rows: Iterator[Row], source: Source, file: Path) -> Iterator[Row]:
    """One row per response, without tokens, which the harness does not log.

    A row with one response carries its metric as the reward. Where a document was answered repeatedly the metric is one
    number for all of them, so each response is judged by itself against the target. Rows of older versions (0.4.5) do
    not say of which filter they are, and come once per filter: of those of a document the first counts.
    """
    named = LM_EVAL_FILE.search(file.name)
    task, date = (named["task"], named["date"]) if named else ("", "")
    run, wanted = _lm_eval_run(file, task, date, source), source.filter
    peeked = list(islice(rows, NUM_PEEKED))
    wanted = wanted or next((str(row.get("filter", "")) for _, row in peeked), "")
    usual = usual_metric(
        (_lm_eval_metrics(row) for _, row in peeked if str(row.get("filter", "")) == wanted), source, "{}"
    )
    filters, documents = set[str](), set[str]()
    found = 0
    for place, row in chain(peeked, rows):
        filters.add(str(row.get("filter", "")))
        if str(row.get("filter", "")) != wanted:
            continue
        found += 1
        if "filter" not in row:
            if str(row["doc_id"]) in documents:
                source.left_out["rows of further filters, which this version does not name: the first counts"] += 1
                continue
            documents.add(str(row["doc_id"]))
        texts, filtered = _lm_eval_texts(place, row)
        doc = read_object(row["doc"])
        metrics = _lm_eval_metrics(row) | ({source.metric: row.get(source.metric)} if source.metric else {})
        for text, answer in zip(texts, filtered, strict=True):
            yield (
                place,
                row
                | known(
                    harness_task=task or None,
                    configuration=run,
                    problem_id=str(row["doc_id"]),
                    hash=row.get("doc_hash"),
                    reward=read_metric(place, metrics, source, usual) if len(texts) == 1 else None,
                    **answer,
                    gold=row.get("target"),
                    level=str(doc.get("level", "") or "").removeprefix("Level ").replace("?", ""),
                    domain=str(doc.get("subject") or doc.get("type") or ""),
                    prompt=_lm_eval_prompt(row, doc),
                    completion=text,
                ),
            )
    if not found:
        raise LogError(f"{file}: no row of filter {wanted!r}; name another with --metric METRIC,FILTER")
    if len(filters) > 1 and not source.filter:
        source.note(f"filter {wanted} of {', '.join(sorted(filters))} (another: ibpo report --metric METRIC,FILTER)")


def _lm_eval_metrics(row: Json) -> Json:
    """Name -> value; older versions (0.4.5) have no list of the names."""
    names = (
        row["metrics"] or ()
        if "metrics" in row
        else (
            name for name, value in row.items() if name not in LM_EVAL_COLUMNS and isinstance(value, bool | int | float)
        )
    )
    return {str(name): row.get(name) for name in names}


def _lm_eval_run(file: Path, task: str, date: str, source: Source) -> str:
    """The run's name: its model's folder; of several runs also what each was asked with, or its date."""
    model = file.parent.name or file.stem
    settings = _lm_eval_settings(file, date)
    if "think_end_token" in str(settings.get("model_args", "")):
        source.note(
            f"{file.name}: was made with think_end_token, so its texts hold no thoughts: their costs are those of the "
            "answers alone; take the tokens from the server's log"
        )
    runs = [found["date"] for other in file.parent.glob("samples_*") if (found := LM_EVAL_FILE.search(other.name))
            and found["task"] == task]  # fmt: skip
    if len(set(runs)) < 2:
        return model
    asked = [str(_lm_eval_settings(file, other).get("gen_kwargs")) for other in sorted(set(runs))]
    differ = len(set(asked)) == len(asked)
    source.note(
        f"{file.parent.name} holds {len(asked)} runs of {task}: each is a configuration, named by its "
        f"{'gen_kwargs' if differ else 'date'}"
    )
    mine = read_object(settings.get("gen_kwargs"))
    words = ", ".join(f"{name}={value}" for name, value in mine.items()) or str(settings.get("gen_kwargs") or "none")
    return f"{model} {words if differ else date}"


def _lm_eval_settings(file: Path, date: str) -> Json:
    """How the run of this date was asked, out of the results file next to its samples."""
    results = next(iter(file.parent.glob(f"results_{date}*.json")), None) if date else None
    return read_object(lookup(read_object(_document(results)), "config")) if results else {}


def _document(file: Path) -> Any:
    try:
        return read_document(file, file.read_text(encoding="utf-8-sig"))
    except (LogError, OSError, UnicodeDecodeError):
        return {}


def _lm_eval_texts(place: str, row: Json) -> tuple[list[str], list[Json]]:
    """The responses of the row's one request; of each the answer that the filter left, or the text to read it from."""
    resps, filtered = row["resps"], row["filtered_resps"]
    texts = resps[0] if isinstance(resps, list) and len(resps) == 1 else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not texts:
        raise LogError(
            f"{place}: field 'resps': holds no generated text; a multiple-choice task compares likelihoods and has no "
            "cost: give a file of a task of type generate_until"
        )
    left = filtered[0] if isinstance(filtered, list) and filtered else None
    if isinstance(left, list) and len(left) == len(texts):
        return texts, [_lm_eval_answer(answer) for answer in left]
    if len(texts) == 1 and isinstance(left, str):
        return texts, [_lm_eval_answer(left)]
    return texts, [{"answer_from": text} for text in texts]


def _lm_eval_answer(text: Any) -> Json:
    answer = str(text).strip()
    if len(answer) > 200:
        return {"answer_from": answer}
    # What the harness's regex filter says where nothing matched: there is no answer.
    return {"answer": "" if answer == "[invalid]" else answer}


def _lm_eval_prompt(row: Json, doc: Json) -> str:
    asked = first_of(doc, "question", "problem", "query")
    return asked if isinstance(asked, str) else str(lookup(row.get("arguments"), "gen_args_0.arg_0") or "")


# --- lighteval: details_TASK_DATE.parquet, one row per document ---


def is_lighteval(row: Json) -> bool:
    """A row of `--save-details`.

    Raises:
        LogError: for the layout of older versions.
    """
    if set(row) >= {"full_prompt", "predictions", "cont_tokens"}:
        raise LogError("details in the layout of an older lighteval; run it again with a newer one (0.13 is known)")
    return {"doc", "model_response", "metric"} <= set(row)


def convert_lighteval(rows: Iterator[Row], source: Source, file: Path) -> Iterator[Row]:
    """One row per response.

    A document with one response carries its metric as the reward; of several each is judged by itself against the gold,
    because the metric (pass@k, maj@n) is one number for all of them.
    """
    named = LIGHTEVAL_FILE.search(file.name)
    peeked = list(islice(rows, NUM_PEEKED))
    usual = usual_metric((read_object(row["metric"]) for _, row in peeked), source, "metric.{}")
    for number, (place, row) in enumerate(chain(peeked, rows)):
        doc, response = row["doc"], row["model_response"]
        texts = response.get("text_post_processed") or response.get("text") or []
        raw, tokens = response.get("text") or texts, response.get("output_tokens") or []
        if not texts or not isinstance(texts[0], str):
            raise LogError(
                f"{place}: field 'model_response.text': holds no generated text; a multiple-choice task compares "
                "likelihoods and has no cost: give details of a generative task"
            )
        if tokens and not isinstance(tokens[0], list):
            tokens = [tokens]
        specific, room = read_object(doc.get("specific")), doc.get("generation_size")
        choices, index = doc.get("choices") or [], doc.get("gold_index")
        index = index[0] if isinstance(index, list) and index else index
        for i, text in enumerate(texts):
            spent = len(tokens[i]) if i < len(tokens) else None
            yield (
                place,
                row
                | known(
                    harness_task=str(doc.get("task_name") or (named["task"] if named else "")) or None,
                    configuration=_lighteval_model(file),
                    problem_id=str(doc.get("id") or number),
                    hash=doc.get("query"),
                    reward=read_metric(place, read_object(row["metric"]), source, usual, "metric.{}")
                    if len(texts) == 1
                    else None,
                    gold=choices[index] if isinstance(index, int) and 0 <= index < len(choices) else None,
                    tokens=spent or None,
                    finish_reason=("length" if spent >= room else "stop") if spent and room else None,
                    level=str(specific.get("level") or "").removeprefix("Level "),
                    domain=str(specific.get("subject") or specific.get("type") or ""),
                    prompt=str(doc.get("query") or ""),
                    answer_from=text,
                    completion=raw[i] if i < len(raw) else text,
                ),
            )


def _lighteval_model(file: Path) -> str:
    """MODEL of `details/MODEL/DATE/details_....parquet`; it may have a slash."""
    parts = file.resolve().parts
    if "details" in parts[:-2]:
        at = len(parts) - 1 - parts[::-1].index("details")
        return "/".join(parts[at + 1 : -2]) or file.stem
    return file.stem


def usual_metric(rows: Iterable[Mapping[str, Any]], source: Source | None = None, column: str = "") -> str:
    """The first metric that is in [0, 1] in all of the first rows: a BLEU of 0 is, where the next row's is 34; else "".

    Args:
        rows: The metrics of each.
        source: Gets a note where there are several, and none was named.
        column: The column of a metric, with `{}` for its name.

    Example:
        >>> usual_metric([{"bleu": 0.0, "right": 1}, {"bleu": 34.5, "right": 0}])
        'right'
    """
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    known = {name: [value for row in rows if (value := row.get(name)) is not None] for name in names}
    fit = [name for name, values in known.items() if values and all(map(_is_part, values))]
    if source is not None:
        _note_metric(source, fit, column)
    return fit[0] if fit else ""


def _note_metric(source: Source, names: Sequence[str], column: str) -> None:
    """Say which of several metrics is the reward, and how another is named."""
    if len(names) > 1 and not (source.metric or source.reward):
        other = column.format(names[1])
        source.note(f"reward = {names[0]} of {', '.join(names)} (--columns reward={other} names another)")


def _is_part(value: Any) -> bool:
    return isinstance(value, bool | int | float) and 0 <= value <= 1


def read_metric(
    place: str, values: Mapping[str, Any], source: Source, usual: str = "", column: str = "{}"
) -> float | None:
    """The value of the metric named, else of the usual one; None where there is none, and a column is the reward.

    Args:
        place: The place of the row, for the error.
        values: The row's metrics.
        source: Which metric or column is named.
        usual: The metric of all rows.
        column: The column of a metric, with `{}` for its name.

    Raises:
        LogError: where there is none.
    """
    value = values.get(source.metric or usual)
    if _is_part(value):
        return float(value or 0)
    if source.reward:
        return None
    there = [name for name, value in values.items() if value is not None]
    lacks, fix = source.metric, "--metric"
    if source.metric in ("", *there):  # it is of another range
        lacks, fix = f"{source.metric} in [0, 1]".strip(), f"--columns reward={column.format(next(iter(there), '...'))}"
        fix += "/100" * bool(there)
    listed = ", ".join(there) or "none"
    raise LogError(f"{place}: no metric {lacks}; the row's metrics are {listed}: name one with {fix}")


# --- Inspect: `.eval` (a zip of JSON) or `.json`, one sample per problem and epoch ---


def is_inspect(document: Any) -> bool:
    """A log of Inspect as one document."""
    return isinstance(document, dict) and {"version", "eval", "plan"} <= set(document)


def inspect_rows(file: Path, document: Json | None = None) -> Iterator[RawRow]:
    """The samples of a log, each with its header."""
    if document is not None:
        for number, sample in enumerate(document.get("samples") or [], start=1):
            yield f"{file}, sample {number}", {"inspect": document, "sample": sample}
        return
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
            members = {info.filename: info for info in archive.infolist()}
            start = members.get("header.json") or members.get("_journal/start.json")
            if start is None:
                raise LogError(f"{file}: holds no header.json; is it a log of Inspect?")
            header = parse_json(str(file), _member(archive, start, raw, file))
            for name, info in members.items():
                if name.startswith("samples/"):
                    place = f"{file}, {name}"
                    yield place, {"inspect": header, "sample": parse_json(place, _member(archive, info, raw, file))}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise LogError(f"{file}: cannot be read as a log of Inspect: {error}; copy it again") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: Any, file: Path) -> str:
    """A member's text; packed by zstd, as newer versions do, it is read from the file itself."""
    if info.compress_type != ZSTD:
        return archive.read(info).decode()
    raw.seek(info.header_offset)
    name, more = struct.unpack("<HH", raw.read(30)[26:30])
    raw.seek(name + more, 1)
    packed = raw.read(info.compress_size)
    return pyarrow_for(file).decompress(packed, decompressed_size=info.file_size, codec="zstd", asbytes=True).decode()


def convert_inspect(rows: Iterator[Row], source: Source, _: Path) -> Iterator[Row]:
    """Group = the reasoning effort of plan or task; reward = the first scorer's value.

    The log of a retried task holds again what the interrupted one had finished, and a log that was scored again or
    written in the other form holds all: a sample has a `uuid`, by which it counts once.
    """
    seen = set(source.custom_ids)  # of the files before this one
    usual = ""
    for place, row in rows:
        header, sample = row["inspect"], row["sample"]
        if sample.get("error"):
            source.left_out["samples that ended in an error"] += 1
            continue
        if sample.get("uuid"):
            folders = [f"{name}={value}" for name, value in row.items() if name not in ("inspect", "sample")]
            key = " ".join([str(sample["uuid"]), *folders])  # as effort=low/ may say whose it is
            if key in seen:
                source.left_out[
                    "samples that an earlier log holds too, by their uuid (e.g. of a task that was retried)"
                ] += 1
                continue
            seen.add(key)
            source.custom_ids.append(key)
        model = first_of(header, "eval.model") or ""
        usage = read_object(sample.get("model_usage"))
        spent = _without_grading(read_object(usage.get(model)), header, sample, model, source)
        spent = spent or lookup(sample, "output.usage") or next(iter(usage.values()), {})
        scores = read_object(sample.get("scores"))
        if not usual:  # one for all samples, also where it gave one of them no score
            usual = next(iter(scores), "")
            _note_metric(source, list(scores), "sample.scores.{}.value")
        value, answer = _inspect_score(place, scores, source, usual)
        # Where its scorer gave a sample no score, nobody else judges it.
        has_no_score = value is None and bool(usual or lookup(header, "results.scores"))
        target = None if has_no_score else sample.get("target")
        yield (
            place,
            # What the whole run came to is no value of a sample, and not to be guessed as one.
            {**row, "inspect": {name: value for name, value in header.items() if name not in ("results", "stats")}}
            | known(
                harness_task=first_of(header, "eval.task"),
                effort=first_of(header, *(f"{at}.reasoning_{what}" for what in ("effort", "tokens")
                                          for at in ("plan.config", "eval.model_generate_config", "eval.task_args")),
                                "eval.task_args.effort"),
                model=model or None,
                problem_id=str(sample.get("id")),
                reward=value,
                answer=answer,
                gold=target[0] if isinstance(target, list) and target else target or None,
                **read_usage(spent),
                finish_reason=(sample.get("limit") and "length") or
                                          lookup(sample, "output.choices.0.stop_reason"),
                prompt=read_prompt(sample.get("input")),
                completion=read_text(first_of(sample, "output.completion", "output.choices.0.message.content")),
                level=str(first_of(sample, "metadata.level") or "").removeprefix("Level "),
                domain=str(first_of(sample, "metadata.subject", "metadata.domain") or ""),
            ),
        )  # fmt: skip


def _without_grading(usage: Json, header: Json, sample: Json, model: str, source: Source) -> Json:
    """A sample's usage of a model, less what the same model spent on grading its answer (`model_graded_qa`).

    A scorer's calls are in its span. Those of `inspect score`, which grades a log later on, are in no usage: what was
    spent outside of scorers is never taken away.
    """
    scorers: set[str] = set()
    answering, grading = Counter[str](), Counter[str]()
    for event in sample.get("events") or ():
        kind = event.get("event")
        if kind == "span_begin" and (event.get("type") in SCORERS or event.get("parent_id") in scorers):
            scorers.add(event.get("id"))
        elif kind == "model" and event.get("model") == model and event.get("cache") != "read":
            spent = grading if event.get("span_id") in scorers else answering
            spent.update({name: count for name, count in read_object(lookup(event, "output.usage")).items()
                          if isinstance(count, int)})  # fmt: skip
    if grading:
        source.note("the tokens by which the same model graded its answers are not in their costs")
        left = {name: max(answering[name], count - grading[name]) if isinstance(count, int) else count
                for name, count in usage.items()}  # fmt: skip
        return left if left.get("output_tokens") else {}  # the answer was of a cache
    if not sample.get("events") and any(
        "model_graded" in str(lookup(scorer, "name")) and not lookup(scorer, "options.model")
        for scorer in lookup(header, "eval.scorers") or ()
    ):
        source.note("the log has no events: where the model graded its own answers, their costs hold that too")
    return usage


def _inspect_score(place: str, scores: Json, source: Source, usual: str) -> tuple[Any, str | None]:
    """Reward and answer by the scorer named, else by the usual one; of several values in a score the first."""
    metric = source.metric
    if metric and metric not in scores:
        raise LogError(
            f"{place}: no scorer {metric}; the sample's are {', '.join(scores) or 'none'}: name one with --metric"
        )
    score = read_object(scores.get(metric or usual))
    value = score.get("value")
    if isinstance(value, dict):
        if len(value) > 1 and not source.reward:
            other = f"sample.scores.{metric or usual}.value.{list(value)[1]}"
            source.note(f"reward = {next(iter(value))} of {', '.join(value)} (--columns reward={other} names another)")
        value = next(iter(value.values()), None)
    value = GRADES.get(value, value) if isinstance(value, str) else value
    if isinstance(value, float) and value != value:
        value = None
    answer = score.get("answer")
    # Texts such as "yes" or "0.5" are read, or refused, as any reward is.
    return value, None if answer is None else str(answer)


# --- HELM: a run's folder, of which scenario_state.json has the answers ---


def is_helm(document: Any) -> bool:
    """A run's answers."""
    return isinstance(document, dict) and {"adapter_spec", "request_states"} <= set(document)


def helm_rows(file: Path, document: Json) -> Iterator[RawRow]:
    """One row per request, with the statistics of its instance out of the file next to it.

    A perturbed instance has the identifier of its original, so that only their field distinguishes the
    statistics of both apart.
    """
    stats: dict[tuple[str, Any], Json] = {}
    beside = file.with_name("per_instance_stats.json")
    for one in _document(beside) if beside.is_file() else ():
        if one.get("perturbation"):
            continue
        values = {lookup(stat, "name.name"): stat.get("mean", stat.get("sum")) for stat in one.get("stats") or ()}
        # There is an entry for each kind of metric.
        stats.setdefault((str(one.get("instance_id")), one.get("train_trial_index")), {}).update(values)
    for number, state in enumerate(document["request_states"], start=1):
        key = str(lookup(state, "instance.id")), state.get("train_trial_index")
        yield (
            f"{file}, request {number}",
            {"helm": document["adapter_spec"], "state": state, "stats": stats.get(key, {})},
        )


HELM_METRICS = ("final_number_exact_match", "math_equiv_chain_of_thought", "math_equiv", "quasi_exact_match",
                "exact_match", "pass", "f1_score")  # fmt: skip


def convert_helm(rows: Iterator[Row], source: Source, file: Path) -> Iterator[Row]:
    """Group = the reasoning effort of the adapter where it has one, else the model; reward = the first accuracy."""
    for place, row in rows:
        state, stats = row["state"], row["stats"]
        if lookup(state, "instance.perturbation"):
            source.left_out["requests of perturbed instances, which are not new problems"] += 1
            continue
        if lookup(state, "result.success") is False:
            source.left_out["failed requests"] += 1
            continue
        names = [source.metric] if source.metric else [name for name in HELM_METRICS if stats.get(name) is not None]
        _note_metric(source, names, "stats.{}")
        completions = lookup(state, "result.completions") or [{}]
        first, *more = completions
        if more:
            source.left_out["further completions of a request, which HELM does not score one by one"] += len(more)
        references = lookup(state, "instance.references") or []
        gold = next((lookup(one, "output.text") for one in references if "correct" in (one.get("tags") or ())), None)
        tokens = first_of(stats, "num_completion_tokens", "num_output_tokens") or len(first.get("tokens") or ())
        if not tokens and first.get("text"):
            tokens = None  # nobody counted them, and 0 is no cost
            row["stats"] = {name: value for name, value in stats.items() if not name.endswith("_tokens")}
        elif "num_output_tokens" in stats:
            source.note("HELM counts the tokens of the visible text only: thoughts are not in its costs")
        effort = first_of(row["helm"], "model_deployment_args.reasoning_effort", "reasoning_effort")
        yield (
            place,
            row
            | known(
                effort=effort,
                model=first_of(row["helm"], "model", "model_deployment"),
                problem_id=str(lookup(state, "instance.id")),
                reward=read_metric(place, stats, source, names[0], "stats.{}") if names else None,
                gold=gold,
                tokens=tokens,
                finish_reason=lookup(first, "finish_reason.reason"),
                prompt=str(lookup(state, "instance.input.text") or ""),
                completion=str(lookup(first, "text") or ""),
            ),
        )


# --- promptfoo: `eval -o FILE.json`, one result per prompt, provider and test ---


def is_promptfoo_export(document: Any) -> bool:
    """The file of `eval -o FILE.json`, whose results are under `results.results`."""
    return isinstance(lookup(document, "results.results"), list) and "prompts" in document["results"]


def is_promptfoo(row: Json) -> bool:
    """A result of promptfoo."""
    return {"testIdx", "promptIdx", "provider"} <= set(row)


def convert_promptfoo(rows: Iterator[Row], source: Source, _: Path) -> Iterator[Row]:
    """Group = the provider's label, and the prompt's where a provider got several; problem = the test's id or its vars.

    `testIdx` is no problem: each repetition of a test (`--repeat`) has its own. An assertion that failed is a wrong
    answer, though it is under `error`. One run may be written in several forms: a result counts once by its `id`.
    """
    made: list[tuple[str, str, Any, Json]] = []
    prompts: dict[str, dict[Any, str]] = {}
    before = set(source.custom_ids)  # of the files before this one
    for place, row in rows:
        if (result := str(row.get("id") or "")) in before:
            source.left_out["results that an earlier file holds too, by their id"] += 1
            continue
        source.custom_ids += [result] * bool(result)
        response = read_object(row.get("response"))
        failed = row.get("failureReason") == 2 or (response.get("error") and not response.get("output"))
        if failed:
            source.left_out["failed requests"] += 1
            continue
        provider = row["provider"]
        name = str(provider if isinstance(provider, str) else first_of(provider, "label", "id"))
        prompt = row.get("promptIdx")  # of this provider and prompt
        prompts.setdefault(name, {}).setdefault(prompt, str(first_of(row, "prompt.label") or ""))
        usage = read_object(response.get("tokenUsage") or row.get("tokenUsage"))
        reward = first_of(row, f"namedScores.{source.metric}") if source.metric else row.get("score")
        output = response.get("output")
        one = row | known(
            problem_id=_promptfoo_problem(row),
            reward=float(bool(row.get("success"))) if reward is None else reward,
            tokens=first_of(usage, "completion") or None,
            thinking_tokens=first_of(usage, "completionDetails.reasoning"),
            **prompt_counts(usage),
            finish_reason=first_of(response, "finishReason"),
            cost_usd=row.get("cost"),
            prompt=str(first_of(row, "prompt.raw") or ""),
            completion=output if isinstance(output, str) else str(output or ""),
        )
        made.append((place, name, prompt, one))
    for name, of_provider in prompts.items():
        if len(of_provider) > 1:
            source.note(f"{name} got {len(of_provider)} prompts: with each it is a configuration")
    for place, name, prompt, one in made:
        yield place, {**one, "configuration": _promptfoo_configuration(name, prompt, prompts[name])}


def _promptfoo_problem(row: Json) -> str:
    """The test's own identifier, else the values of its variables, else its number."""
    # Those of the test, not the row's, among which is what earlier answers were stored as.
    variables = read_object(lookup(row, "testCase.vars")) or read_object(row.get("vars"))
    own = first_of(variables, "problem_id", "id")
    if own is None and len(variables) == 1:
        own = next(iter(variables.values()))
    if isinstance(own, str | int | float):
        return str(own)
    if variables:
        return json.dumps(variables, ensure_ascii=False, sort_keys=True)
    return f"test {row['testIdx']}"


def _promptfoo_configuration(name: str, prompt: Any, of_provider: Mapping[Any, str]) -> str:
    """The provider, and its prompt's label where it has several; its number where labels are long or alike."""
    if len(of_provider) < 2:
        return name
    labels = list(of_provider.values())
    plain = len(set(labels)) == len(labels) and all(label and len(label) <= MAX_LABEL for label in labels)
    return f"{name}, {of_provider[prompt] if plain else f'prompt {prompt}'}"


# --- Rollouts of trainers: verl's dumps and TRL's `log_completions` ---


def _run_of(file: Path, source: Source) -> Json:
    """The folder of a file, where there are several: they are of different runs, or of training and validation."""
    if source.num_folders < 2 or partition_of(file, source.path):
        return {}
    source.note(f"files of {source.num_folders} folders: each is a run, unless a column names the response groups")
    return {"configuration": str(file.parent.relative_to(source.path))}


def is_verl(row: Json) -> bool:
    """A line of verl's `rollout_data_dir` or `validation_data_dir`."""
    return {"input", "output", "score", "step"} <= set(row)


def convert_verl(rows: Iterator[Row], source: Source, file: Path) -> Iterator[Row]:
    """Reward = `score`; rewards of -1 and 1 are written as 0 and 1. A dump has neither tokens nor response groups."""
    run = _run_of(file, source)
    for place, row in rows:
        score = row["score"]
        if score == -1:
            source.note("a score of -1 counts as wrong: 0")
            score = 0
        made = known(prompt=row["input"], completion=row["output"], gold=row.get("gts"), reward=score)
        yield place, row | run | made


def is_trl(row: Json) -> bool:
    """A row of `completions_STEP.parquet`."""
    return {"step", "prompt", "completion", "advantage"} <= set(row)


def convert_trl(rows: Iterator[Row], source: Source, file: Path) -> Iterator[Row]:
    """Reward = the reward function's column: the one named by --metric, else the first, in all rows."""
    usual, run = "", _run_of(file, source)
    for place, row in rows:
        others = [name for name, value in row.items() if name not in ("step", "prompt", "completion", "advantage")
                  and isinstance(value, int | float)]  # fmt: skip
        usual = usual or next(iter(others), "")
        name = source.metric or usual
        if name not in row:
            raise LogError(
                f"{place}: no reward column {name!r}; there are {', '.join(others) or 'none'}: name one with --metric"
            )
        if not source.reward:
            source.note(f"reward = {name}")
        completion = row["completion"]
        text = read_text(completion[-1].get("content")) if isinstance(completion, list) and completion else completion
        effort = {"effort": row["reasoning_effort"]} if "reasoning_effort" in row else {}
        yield (
            place,
            {
                **row,
                **run,
                **effort,
                **known(prompt=read_prompt(row["prompt"]), user_turns=read_user_turns(row["prompt"])),
                "completion": str(text),
                "reward": row[name],
            },
        )
