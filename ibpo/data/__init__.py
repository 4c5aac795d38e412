"""What do logs of scored responses say? One reader for every format; numpy, and pyarrow where a log is Parquet."""

from ibpo.data.group_sums import GroupSums, sum_parts
from ibpo.data.response_log import (
    Labels,
    Log,
    LogColumns,
    LogError,
    LogReader,
    LogRows,
    OnError,
    raw_rows,
    read_log,
)

__all__ = [
    "GroupSums",
    "Labels",
    "Log",
    "LogColumns",
    "LogError",
    "LogReader",
    "LogRows",
    "OnError",
    "raw_rows",
    "read_log",
    "sum_parts",
]
