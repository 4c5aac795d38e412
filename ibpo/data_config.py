"""`[data]`, `[judge]` and `[constraints]`: the same words in every recipe, whatever is done with the problems."""

from __future__ import annotations

from dataclasses import dataclass

JUDGES = ("math", "exact", "code", "llm")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """`[data]`: the problems. A shipped task, or rows of one's own with the names of their columns."""

    task: str = ""
    """A shipped task, e.g. `gsm8k_train`, which knows its columns, its judge and where it comes from; "": one's own."""
    path: str = ""
    """A `.jsonl`, `.jsonl.gz` or `.parquet` file or a folder of such, relative to where the command runs; or
    `hub:OWNER/NAME@COMMIT`. "": where the task comes from."""
    config: str = ""
    """Of a data set that has several."""
    split: str = ""
    """"": of the hub's, `train`."""
    problem: str = ""
    """Column with the problem; "": the task's, or `problem` or `question`."""
    answer: str = ""
    """Column with its answer; "": the task's, or `answer`."""
    answer_after: str = ""
    """The answer is what follows the last occurrence of this marker (GSM8K: `####`); "": the whole column."""
    id: str = ""
    """Column with a unique id; "": the task's, or `id`, or the row's number where there is none."""
    level: str = ""
    """Column with the difficulty, for reports and sliced budgets; "": the task's, or `level` where there is one."""
    domain: str = ""
    """The same of the domain; "": the task's, or `domain`, `subject` or `type` where there is one."""
    tests: str = ""
    """Column with the tests of a program: source that raises where it is wrong, or a list of such lines."""
    setup: str = ""
    """Column with source that goes before the program."""
    entry_point: str = ""
    """Column with the function that the tests' `check` is called with."""
    template: str = ""
    """The prompt, with `{problem}` and `{tests}`; "": the task's, or the problem alone."""
    judge: str = ""
    """`math`, `exact`, `code` or `llm` (see `[judge]`); "": the task's, or `math`."""
    limit: int | None = None
    """Read this many problems; None: all."""
    holdout: int = 0
    """Problems kept for the evaluation, never trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """`[judge]`: the language model that grades, for `data.judge = "llm"` and `constraints.rubric`."""

    base_url: str = ""
    """Of an OpenAI-compatible server, down to the version: `http://127.0.0.1:8000/v1`."""
    model: str = ""
    """Its name there."""
    api_key_file: str = ""
    """A file whose text is the key; "": none is sent."""
    num_concurrent: int = 16
    rubric: str = ""
    """What a good response is; "": its final answer means the same as the reference answer."""
    scale: int = 1
    """The best grade; the reward is the grade over it."""
    max_tokens: int = 512
    """Of a judgement."""
    on_failure: str = "violate"
    """Of a response that gets no grade: `violate` (reward 0, never imitated, counted apart), `zero`, or `raise`."""
    show_reference: bool = True
    """Whether the judge sees the answer."""
    isolation: bool = True
    """Of programs, for `data.judge = "code"`; false runs them with your own rights: on throw-away machines only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConstraintsConfig:
    """`[constraints]`: a response that violates one is never imitated, whatever its reward. Cut-off ones always do."""

    answered: bool = False
    """It gives an answer."""
    format: bool = False
    """It keeps the format of its response group; every group then has the name of a shipped one."""
    script: str = ""
    """Its letters are of this script, by Unicode's names (LATIN, CJK, CYRILLIC, ...); "": of any."""
    script_share: float = 0.95
    """At least this share of them."""
    free_of: tuple[str, ...] = ()
    """Regular expressions that do not occur in it, whatever the case."""
    rubric: str = ""
    """What the model of `[judge]` has to find fully met, e.g. safety."""
