"""Real chat templates: what each family's switch does, and whether every opening is forced as it was asked.

    python benchmarks/families.py FOLDER ...   # folders with *.jinja; without any, those that trl ships

llama.cpp holds dozens more in `models/templates` (MIT for its own files, each template its model's licence); they are
also in the source archive of llama-cpp-python. For each template five openings are rendered: by `open_response`, as
`ibpo eval` sends them, and as a server renders them that continues an assistant's message. What is right is decided
here, by the marks of the family alone: a thought that is open and nothing else, one closed thought, a thought and an
answer, an answer behind nothing or behind one closed thought. Exit status 1 where a prompt is another one, or where the
gateway's two groups are one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.responses import (
    FORMATS,
    Family,
    check_formats,
    family_of,
    open_response,
    prefilled,
    render,
    written,
)
from ibpo.serving.gateway import GROUPS_BY, default_groups

OPENINGS = {
    "open": "<think>",
    "open, line break": "<think>\n",
    "closed": "<think>\n\n</think>\n\n",
    "thought and word": "<think>\nWell\n</think>\n\nAnswer:",
    "word": "Answer:",
}
PROBLEM = "What is 12 + 30?"
USER = [{"role": "user", "content": PROBLEM}]


def compact(*texts: str) -> str:
    """The texts without white space."""
    return "".join("".join(texts).split())


def is_as_asked(prompt: str, kind: str, family: Family) -> bool:
    """Whether the prompt ends in this opening, in the family's marks, with nothing unasked between it and the user."""
    tail = compact(prompt.rpartition(PROBLEM)[2])
    think, end = compact(family.think), compact(family.end_think)
    empties = sorted({compact(think, end), end, compact(family.writes_off)} - {""}, key=len, reverse=True)
    if kind.startswith("open"):
        return tail.endswith(think) and tail.count(think) == 1 and not tail.removesuffix(think).endswith(end)
    if kind == "closed":
        ends = [tail.removesuffix(compact(text)) for text in (family.to_answer, "")]
        return any(one.endswith(empty) and one.count(think) <= 1 for one in ends for empty in empties) or (
            bool(family.writes_off) and tail.endswith(compact(family.writes_off))
        )
    if kind == "thought and word":
        whole = compact(think, "Well", end, family.to_answer, "Answer:")
        return tail.endswith(whole) and tail.count(think) == 1
    if not tail.endswith("Answer:"):
        return False
    before = tail.removesuffix("Answer:").removesuffix(compact(family.at_once))
    for empty in empties:
        if before.endswith(empty):
            before = before.removesuffix(empty)
            break
    return think not in before and (family.think == family.end_think or "Answer:" not in before)


def tokenizer_with(template: str) -> Any:
    """Bytes; templates only need its special tokens' names."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<BOS>", eos_token="<EOS>")
    made.add_tokens(["<think>", "</think>", "\n\n"])
    made.chat_template = template
    return made


def count_as_asked(tokenizer: Any, family: Family, served: bool) -> tuple[int, int]:
    """How many of the openings come out as asked, and how many as another prompt; the others are refused."""
    right = wrong = 0
    for kind, prefix in OPENINGS.items():
        try:
            if served:
                prompt = prefilled(tokenizer, USER, prefix, {})
            else:
                opened = open_response(tokenizer, USER, prefix, {}, adapt=True)
                prompt = opened.prompt + opened.forced
        except Exception:  # whatever a template refuses
            continue
        good = is_as_asked(prompt, kind, family)
        right, wrong = right + good, wrong + (not good)
    return right, wrong


def served_by(tokenizer: Any, by: str) -> tuple[str, str]:
    """How `ibpo serve --by` asks for its two groups, and whether that makes two prompts: differ, same, refused."""
    try:
        rows, _ = default_groups(by, tokenizer)
    except IbpoError:
        return "refused", "refused"
    sent = [row["chat_template_kwargs"] for row in rows]
    texts = {render(tokenizer, USER, options) for options in sent}
    return " / ".join(map(cell, sent)), "differ" if len(texts) == 2 else "same"


def cell(options: Mapping[str, Any] | None) -> str:
    """Options of a template for the table."""
    return ", ".join(f"`{key}={value}`" for key, value in options.items()) if options else "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one template makes of it all."""

    name: str
    """The family's, or the template's where it is of none."""
    hybrid: bool
    cells: tuple[str, ...]
    """Switch, words of effort, openings on and off, check, the gateway's groups by thinking and by effort."""
    here: tuple[int, int]
    """Openings as asked, and other prompts; by `open_response`."""
    served: tuple[int, int]
    """The same, by a server that continues messages."""
    gateway: list[str]
    """Of `ibpo serve --by thinking` and `--by effort`: differ, same or refused."""


def row_of(path: Path) -> Row | None:
    """The row of a template; None if it renders no chat."""
    tokenizer = tokenizer_with(path.read_text(encoding="utf-8"))
    try:
        if PROBLEM not in render(tokenizer, USER, {}):
            return None
        family = family_of(tokenizer)
    except Exception:  # a template for tools or images alone
        return None
    opens: list[str] = []
    for options in (family.on, family.off):
        wrote = written(tokenizer, USER, options, family)[0] if options is not None else ""
        short = wrote if len(wrote) < 60 else f"{wrote[:12]}...{wrote[-13:]}"
        opens.append(f"`{short!r}`".replace("'", "") if wrote else "nothing" if options is not None else "-")
    switch = f"{cell(family.on)} / {cell(family.off)}" if family.on or family.off else "none"
    if family.system_off:
        switch += f", `{family.system_off}` in the system message"
    findings = check_formats([FORMATS[name] for name in ("thinking_on", "direct")], tokenizer)
    errors = [finding.text for finding in findings if finding.level == "error"]
    why = {"inside an open": "opens the thought", "in a closed": "closes the thought", "both open": "one first token"}
    said = sorted({name for sign, name in why.items() if any(sign in text for text in errors)}) or ["ok"]
    gateway = [served_by(tokenizer, by) for by in GROUPS_BY]
    return Row(
        name=path.stem if family.name == "unknown" else family.name,
        hybrid=bool(family.on is not None or family.off or family.system_off),
        cells=(
            switch, ", ".join(family.efforts) or "-", *opens, ", ".join(said),
            *(text for text, _ in gateway),
        ),
        here=count_as_asked(tokenizer, family, served=False),
        served=count_as_asked(tokenizer, family, served=True),
        gateway=[verdict for _, verdict in gateway],
    )  # fmt: skip


HEADS = (
    "family", "templates", "switch, on / off", "words of effort", "writes, on", "writes, off", "check in training",
    "forced here", "prefilled", "`serve --by thinking`", "`serve --by effort`",
)  # fmt: skip


def main(folders: list[str]) -> int:
    """Print the table and the totals."""
    if not folders:
        import trl

        folders = [str(Path(trl.__file__).parent / "chat_templates")]
    paths = [
        path for folder in folders for path in sorted(Path(folder).glob("*.jinja")) if "_training" not in path.name
    ]
    rows = [row for path in paths if (row := row_of(path)) is not None]
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    for name in dict.fromkeys(row.name for row in rows if row.hybrid):
        own = [row for row in rows if row.name == name]
        cells = [" or ".join(dict.fromkeys(column)) for column in zip(*(row.cells for row in own), strict=True)]
        counts = [f"{sum(c[0] for c in counts)} of {len(OPENINGS) * len(own)}"
                  for counts in ([row.here for row in own], [row.served for row in own])]  # fmt: skip
        print(
            "| "
            + " | ".join([name, str(len(own)), *cells[:5], *counts, *cells[5:]])
            .replace("<|", "<\\|")
            .replace("|>", "\\|>")
            + " |"
        )
    total = len(OPENINGS) * len(rows)
    num_hybrid = sum(row.hybrid for row in rows)
    print(f"\n{len(rows)} templates, {num_hybrid} of models that think, {len(OPENINGS)} openings each")
    for name, counts in (("forced here", [row.here for row in rows]), ("prefilled", [row.served for row in rows])):
        right, wrong = (sum(count[i] for count in counts) for i in (0, 1))
        print(f"{name}: {right} as asked, {wrong} another prompt, {total - right - wrong} refused by the template")
    told = [verdict for row in rows for verdict in row.gateway]
    print(
        f"serve --by thinking and --by effort: {told.count('differ')} times two prompts, {told.count('same')} "
        f"the same, {told.count('refused')} refused"
    )
    return int(any(row.here[1] for row in rows) or "same" in told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
