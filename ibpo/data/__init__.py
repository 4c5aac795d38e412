"""What do logs of scored responses say? One reader for every format and tool; numpy, and pyarrow where it is needed."""

from ibpo.data.adapters import IDENTIFIERS, read_log_rows
from ibpo.data.fields import (
    NOTHING,
    Commas,
    find_alike,
    first_of,
    identifier_of,
    lookup,
    parse_cell,
    read_number,
    read_text,
    says_error,
)
from ibpo.data.files import NUM_PEEKED, LogError, Row, Source, files_below, good_rows, json_value
from ibpo.data.group_sums import GroupSums, sum_parts
from ibpo.data.log_rows import Labels, LogRows, note_repeats
from ibpo.data.money import MONEY
from ibpo.data.response_log import (
    JudgeRows,
    Log,
    LogColumns,
    LogReader,
    MissingColumns,
    OnError,
    names_in,
    other_groups,
    read_log,
)
from ibpo.data.values import BARE, COMPLETIONS, GUESSES, check_number, divided, is_own, own_group, read_field

__all__ = [
    "BARE",
    "COMPLETIONS",
    "GUESSES",
    "IDENTIFIERS",
    "MONEY",
    "NOTHING",
    "NUM_PEEKED",
    "Commas",
    "GroupSums",
    "JudgeRows",
    "Labels",
    "Log",
    "LogColumns",
    "LogError",
    "LogReader",
    "LogRows",
    "MissingColumns",
    "OnError",
    "Row",
    "Source",
    "check_number",
    "divided",
    "files_below",
    "find_alike",
    "first_of",
    "good_rows",
    "identifier_of",
    "is_own",
    "json_value",
    "lookup",
    "names_in",
    "note_repeats",
    "other_groups",
    "own_group",
    "parse_cell",
    "read_field",
    "read_log",
    "read_log_rows",
    "read_number",
    "read_text",
    "says_error",
    "sum_parts",
]
