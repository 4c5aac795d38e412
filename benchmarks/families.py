"""Real chat templates: what each family's switch does, and whether every opening is forced as it was asked.

    python benchmarks/families.py FOLDER ...   # folders with *.jinja; without any, those that trl ships

llama.cpp holds dozens more in `models/templates` (MIT for its own files, each template its model's licence); they are
also in the source archive of llama-cpp-python. For each template five openings are rendered: by `open_response`, as
`ibpo eval` sends them, and as a server renders them that continues an assistant's message. What is right is decided
here, by the marks of the family alone: a thought that is open and nothing else, one closed thought, a thought and an
answer, an answer behind nothing or behind one closed thought. Exit status 1 where a prompt is another one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibpo.responses import (
    FORMATS,
    Family,
    check_formats,
    family_of,
    open_response,
    prefilled,
    render,
    same_prompts,
    translate,
    written,
)

OPENINGS = {
    "open": "<think>",
    "open, line break": "<think>\n",
    "closed": "<think>\n\n</think>\n\n",
    "thought and word": "<think>\nWell\n</think>\n\nAnswer:",
    "word": "Answer:",
}
PROBLEM = "What is 12 + 30?"
USER = [{"role": "user", "content": PROBLEM}]
SWITCHED = ("thinking_off", "thinking_on")
EFFORTS = ("effort_low", "effort_high")


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


def do_differ(tokenizer: Any, names: tuple[str, str], family: Family | None) -> str:
    """Whether two groups that a gateway sets by options make two prompts: as named, or in the family's words."""
    groups: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name in names:
        options = FORMATS[name].template_options
        groups[name] = ("", options if family is None else translate(options, family))
    try:
        return "same" if same_prompts(tokenizer, groups) else "differ"
    except Exception:  # a word that the template refuses
        return "refused"


def cell(options: Mapping[str, Any] | None) -> str:
    """Options of a template for the table."""
    return ", ".join(f"{key}={value}" for key, value in options.items()) if options else "-"


def row_of(path: Path) -> tuple[list[str], tuple[int, int], tuple[int, int], bool] | None:
    """A row of the table, and its counts: as asked and wrong, here and through a server; None if it renders no chat."""
    tokenizer = tokenizer_with(path.read_text(encoding="utf-8"))
    try:
        if PROBLEM not in render(tokenizer, USER, {}):
            return None
        family = family_of(tokenizer)
    except Exception:  # a template for tools or images alone
        return None
    opens: list[str] = []
    for options in (family.on, family.off):
        wrote = written(tokenizer, USER, options, family)[0] if options is not None else "-"
        opens.append(f"`{wrote!r}`" if wrote and wrote != "-" else wrote or "nothing")
    switch = f"{cell(family.on)} / {cell(family.off)}" if family.on or family.off else family.system_off or "none"
    here, served = (count_as_asked(tokenizer, family, served) for served in (False, True))
    findings = check_formats([FORMATS[name] for name in ("thinking_on", "direct")], tokenizer)
    errors = sum(finding.level == "error" for finding in findings)
    named, own = (do_differ(tokenizer, SWITCHED, one) for one in (None, family))
    effort_named, effort = (do_differ(tokenizer, EFFORTS, one) for one in (None, family))
    hybrid = bool(family.on is not None or family.off or family.system_off)
    row = [path.stem, family.name, switch, *opens, f"{errors} errors", f"{here[0]} of 5", f"{served[0]} of 5",
           f"{named} / {own}", f"{effort_named} / {effort}"]  # fmt: skip
    return row, here, served, hybrid


def main(folders: list[str]) -> int:
    """Print the table and the totals."""
    if not folders:
        import trl

        folders = [str(Path(trl.__file__).parent / "chat_templates")]
    paths = [
        path for folder in folders for path in sorted(Path(folder).glob("*.jinja")) if "_training" not in path.name
    ]
    print(
        "| template | family | switch on / off | opening on | opening off | check | forced here | prefilled "
        "| thinking groups as named / in the family's words | effort groups |\n" + "|---" * 10 + "|"
    )
    totals = {"here": [0, 0, 0], "served": [0, 0, 0]}
    num_templates = num_hybrid = 0
    for path in paths:
        found = row_of(path)
        if found is None:
            continue
        row, here, served, hybrid = found
        num_templates, num_hybrid = num_templates + 1, num_hybrid + hybrid
        for total, (right, wrong) in zip(totals.values(), (here, served), strict=True):
            for i, count in enumerate((right, wrong, len(OPENINGS) - right - wrong)):
                total[i] += count
        if hybrid:
            print("| " + " | ".join(row).replace("\n", " ") + " |")
        if here[1]:
            print(f"wrong: {path}", file=sys.stderr)
    print(f"\n{num_templates} templates, {num_hybrid} of hybrid or thinking models (the table), 5 openings each")
    for name, (right, wrong, refused) in totals.items():
        print(f"{name}: {right} as asked, {wrong} another prompt, {refused} refused")
    return int(totals["here"][1] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
