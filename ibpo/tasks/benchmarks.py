"""The shipped benchmarks. Revisions are commits of the hub's data sets, so that a name means the same rows for ever."""

from __future__ import annotations

from ibpo.tasks.task import Source, Task

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
GSM8K = Task(
    name="gsm8k",
    answer_after="####",
    problem_id=("id",),
    level=("level",),
    source=Source(
        name="openai/gsm8k", configs=("main",), split="test", revision="e53f048856ff4f594e959d75785d2c2d37b678ee"
    ),
)
GSM8K_TRAIN = Task(
    name="gsm8k_train",
    answer_after="####",
    problem_id=("id",),
    level=("level",),
    source=Source(
        name="openai/gsm8k", configs=("main",), split="train", revision="e53f048856ff4f594e959d75785d2c2d37b678ee"
    ),
)
MATH_TRAIN = Task(
    name="math_train",
    boxed_in=("solution",),
    problem_id=("id", "unique_id"),
    level=("level",),
    domain=("subject", "type"),
    may_lack_answers=True,  # two of 7,500 in one published copy
    source=Source(
        name="EleutherAI/hendrycks_math",
        configs=MATH_SUBJECTS,
        split="train",
        revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
    ),
)
MATH_500 = Task(
    name="math_500",
    problem_id=("unique_id", "id"),
    level=("level",),
    domain=("subject", "type"),
    source=Source(name="HuggingFaceH4/MATH-500", split="test", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
)
AIME_24 = Task(
    name="aime_24",
    problem_id=("id",),
    source=Source(name="HuggingFaceH4/aime_2024", split="train", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a"),
)
AIME_25 = Task(
    name="aime_25",
    problem_id=("id",),
    source=Source(name="math-ai/aime25", split="test", revision="563bb8404243c5f09de6ec262f2db674fe5bce9b"),
)
AMC_23 = Task(
    name="amc_23",
    problem_id=("id",),
    source=Source(name="math-ai/amc23", split="test", revision="80815d37005feb82cd7f8fbc6901d5d3eff43057"),
)
HUMANEVAL = Task(
    name="humaneval",
    judge="code",
    problem=("prompt",),
    answer=("canonical_solution",),
    problem_id=("id", "task_id"),
    tests=("test",),
    setup=("prompt",),
    entry_point=("entry_point",),
    template="Complete this Python function:\n\n```python\n{problem}\n```\n\n"
    "Give the whole function in one ```python block.",
    source=Source(name="openai/openai_humaneval", split="test", revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"),
)
MBPP = Task(
    name="mbpp",
    judge="code",
    problem=("text", "prompt"),
    answer=("code",),
    problem_id=("id", "task_id"),
    tests=("test_list",),
    test_setup=("test_setup_code",),
    template="{problem}\n\nYour code should pass these tests:\n\n```python\n{tests}\n```\n\n"
    "Give the whole program in one ```python block.",
    source=Source(
        name="google-research-datasets/mbpp",
        configs=("full",),
        split="test",
        revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    ),
)
TASKS = {
    task.name: task for task in (GSM8K, GSM8K_TRAIN, MATH_TRAIN, MATH_500, AIME_24, AIME_25, AMC_23, HUMANEVAL, MBPP)
}
