"""Where do problems come from, and who judges the responses to them?"""

from ibpo.tasks.data_files import Row, local_rows, prompt_rows
from ibpo.tasks.recipe_data import build_judge, hold_out, load_given, named_data, read_problems
from ibpo.tasks.task import TASKS, EmbeddedTask, JudgeName, Source, Task, check_task, distinct, judge_for, stream

__all__ = [
    "TASKS",
    "EmbeddedTask",
    "JudgeName",
    "Row",
    "Source",
    "Task",
    "build_judge",
    "check_task",
    "distinct",
    "hold_out",
    "judge_for",
    "load_given",
    "local_rows",
    "named_data",
    "prompt_rows",
    "read_problems",
    "stream",
]
