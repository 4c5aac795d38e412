r"""The mathematics judge on whole responses: answers in the forms that models give them, read by a reader.

    python benchmarks/whole_responses.py [--alone]

The pairs of `tests/fixtures/answer_rewrites.jsonl.gz` were written apart from the judge, in two halves: golds of GSM8K
(MIT licence) and golds in the manner of MATH, each with answers that mean the same and ones that do not. Every answer
is put into two of the forms below, by turns. Beside the judge: math-verify on the answers alone, between dollar signs
and in a box.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
from pathlib import Path

from ibpo.responses import answer_reader
from ibpo.rewards import MathJudge

PAIRS = Path(__file__).parent.parent / "tests" / "fixtures" / "answer_rewrites.jsonl.gz"
LEAD = "We simplify step by step. Since $3 + 4 = 7$ and $7 \\cdot 2 = 14$, the bound follows.\n\n"
BOXED = (
    LEAD + "The answer is $\\boxed{@}$.",
    LEAD + "Final Answer: The final answer is $\\boxed{@}$. I hope it is correct.",
    LEAD + "Hence\n\\[\n\\boxed{@}\n\\]",
    LEAD + "**Final Answer**\n\n**$\\boxed{@}$**",
    LEAD + "First we find $\\boxed{17}$ on the way.\n\nSo the answer is $\\boxed{@}$.",
    "The answer is $\\boxed{1003}$. Wait, that is wrong: I dropped a sign.\n\nThe correct answer is $\\boxed{@}$.",
    "\\boxed{@}\n\nThis agrees with the check above, where 2 + 2 = 4 was used.",
    "Thus $\\boxed { @ }$.",
    "<think>\nMaybe it is \\boxed{99}?\n</think>\n\nThe answer is \\(\\boxed{@}\\).",
    LEAD + "\\fbox{@}",
    "We get \\boxed{ hmm, no.\n\nFinal: \\boxed{@}",
    "\\begin{align*}\nx &= 3 + 4 \\\\\n&= \\boxed{@}\n\\end{align*}",
    "| step | value |\n|---|---|\n| last | $\\boxed{@}$ |",
)
MARKED = (
    ("after:answer is", LEAD + "The answer is @."),
    ("after:answer is", LEAD + "Therefore, the final answer is $@$."),
    ("after:answer is", LEAD + "The answer is: $@$. I hope it is correct."),
    ("after:answer is", LEAD + "The answer is\n\n$$@$$\n"),
    ("after:answer is", LEAD + "The answer is:\n\\[\n@\n\\]\nas required."),
    ("after:answer is", "First I thought that the answer is 8. So the answer is $@$, as required."),
    ("after:####", LEAD + "#### @"),
    ("after:####", LEAD + "#### $ @ $"),
    ("after:Answer:", LEAD + "**Answer:** @"),
    ("after:Answer:", LEAD + "**Answer: @**"),
    ("after:Answer:", LEAD + "### Answer:\n@\n"),
    ("after:Answer:", LEAD + "Answer: \\boxed{@}"),
    ("after:<answer>", "<think>maybe <answer>8</answer></think>\n<answer>@</answer>"),
)


def responses(number: int, answer: str) -> list[tuple[str, str]]:
    """(reader, response) of an answer's two forms; the forms of marks hold one line, and no dollar sign twice."""
    found = [("boxed", BOXED[number % len(BOXED)].replace("@", answer))]
    reader, form = MARKED[number // 3 % len(MARKED)]
    if ("$" in answer and "$" in form) or ("**" in answer and "**" in form):
        reader, form = MARKED[0]
    return found if "\n" in answer else [*found, (reader, form.replace("@", answer))]


def math_verify_says(gold: str, predicted: str, wrap: str) -> bool:
    from math_verify import parse, verify

    try:
        theirs, ours = (parse(text, parsing_timeout=3) for text in (f"${gold}$", wrap % predicted))
        return bool(verify(theirs, ours, timeout_seconds=3))
    except Exception:  # it cannot parse some and raises what it likes: no verdict
        return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--alone", action="store_true", help="the judge without math-verify beside it")
    parser.add_argument("--show", action="store_true", help="print what the judge gets wrong")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with gzip.open(PAIRS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    judge = MathJudge(num_workers=2)
    for half in (1, 2):
        own = [row for row in rows if row["half"] == half]
        asked = [(row, *form) for number, row in enumerate(own) for form in responses(number, row["predicted"])]
        verdicts = judge.compare([(answer_reader(reader)(text), row["gold"]) for row, reader, text in asked])
        for label, said in ((True, "the same"), (False, "another")):
            wrong = [
                (row, text)
                for (row, _, text), verdict in zip(asked, verdicts, strict=True)
                if row["equal"] is label and (verdict.reward == 1.0) is not label
            ]
            number = sum(row["equal"] is label for row, *_ in asked)
            print(f"half {half}, {said}: judge wrong on {len(wrong)} of {number} responses ({len(wrong) / number:.2%})")
            if options.show:
                print(*(f"  {row['gold']!r}: {text[-80:]!r}" for row, text in wrong), sep="\n")
            if options.alone:
                continue
            pairs = [row for row in own if row["equal"] is label]
            for wrap in ("$%s$", r"\boxed{%s}"):
                missed = sum(math_verify_says(row["gold"], row["predicted"], wrap) is not label for row in pairs)
                print(
                    f"  math-verify, {wrap}: wrong on {missed} of {len(pairs)} ({missed / len(pairs):.2%})", flush=True
                )
    judge.close()


if __name__ == "__main__":
    main()
