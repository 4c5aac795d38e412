"""Collected rollouts on disk: killed at any moment, a rerun completes what is missing and repeats nothing.

One JSON object a line; the first line names schema and version. A line counts only with its line break, so what a
killed process left half-written is cut off and asked for again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.rollouts.sampler import Request, Sampled, Sampler
from ibpo.runs import append_rows

SCHEMA, VERSION = "ibpo.rollouts", 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a call of `collect` did."""

    num_new: int
    failures: tuple[str, ...]
    """One line per request that failed; a rerun asks for it again."""


class RolloutStore:
    """An append-only file of rollouts, each under its request's key."""

    def __init__(self, path: Path, *, settings: dict[str, Any] | None = None) -> None:
        """Open or begin a store.

        Args:
            path: a `.jsonl` file.
            settings: what makes its rollouts comparable (model, temperature, ...); must be the same on a rerun, except
                those that an older store did not write down.

        Raises:
            IbpoError: for a file that is no store, of another version, or begun with other settings.
        """
        self.path = path
        self._header = {"schema": SCHEMA, "version": VERSION, "settings": settings or {}}
        self._asked: dict[str, str | None] = {}
        """Key -> hash of what was asked; None in stores that did not write it down."""
        try:
            if path.exists() and path.stat().st_size:
                self._open()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                append_rows(path, [self._header])
        except OSError as error:
            raise IbpoError(f"{path}: cannot be read or written: {error.strerror}; name another file") from None

    def __contains__(self, request: Request) -> bool:
        """Whether the response is there.

        Raises:
            IbpoError: where the stored response answers another prompt under the same key: problems were edited, or the
                response group is worded otherwise.
        """
        if request.key not in self._asked:
            return False
        if self._asked[request.key] not in (None, request.asked):
            group = f" in response group {request.response_group}" if request.response_group else ""
            raise IbpoError(
                f"{self.path}: problem {request.problem.problem_id}{group} was asked differently: its prompt or the "
                "response group's instruction or opening has changed; name another folder"
            )
        return True

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, sampled: Sampled) -> None:
        """Write one rollout, down to the disk's cache; one that is there already is left as it is.

        Raises:
            IbpoError: where the disk is full; the store stays whole.
        """
        request, rollout = sampled.request, sampled.rollout
        if request in self:
            return
        row = {
            "key": request.key,
            "problem_id": rollout.problem_id,
            "response_group": request.response_group,
            "number": request.number,
            "prefix": request.prefix,
            "completion": rollout.completion,
            "finish_reason": rollout.finish_reason,
            "num_prompt_tokens": sampled.num_prompt_tokens,
            "num_completion_tokens": sampled.num_completion_tokens,
            "num_thinking_tokens": sampled.num_thinking_tokens,
            "prompt_token_ids": list(rollout.prompt_token_ids),
            "completion_token_ids": list(rollout.completion_token_ids),
            "asked": request.asked,
        }
        if sampled.reasoning:
            row["reasoning"] = sampled.reasoning
        try:
            append_rows(self.path, [row])
        except OSError as error:
            raise IbpoError(
                f"{self.path}: cannot be written: {error.strerror}; make room and run the same command again: "
                f"the {len(self)} responses so far are kept"
            ) from None
        self._asked[request.key] = request.asked

    def rows(self) -> Iterator[dict[str, Any]]:
        """The stored rollouts, in the order of their arrival; each key once, whoever wrote it a second time.

        Two runs that share a store (`sample.rollouts`) may both ask for what neither has found there.
        """
        seen: set[str] = set()
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                row = json.loads(line)
                if row["key"] not in seen:
                    seen.add(row["key"])
                    yield row

    def _open(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].decode("utf-8", errors="replace").splitlines()
        try:
            header = json.loads(lines[0]) if lines else None
        except json.JSONDecodeError:
            header = None
        if not lines and len(data) < 4096 and json.dumps(self._header).encode().startswith(data[:20]):
            self.path.write_bytes(b"")  # killed while the first line was written
            append_rows(self.path, [self._header])
            return
        if not isinstance(header, dict) or header.get("schema") != SCHEMA:
            raise IbpoError(f"{self.path}: is not a store of rollouts; name another file")
        if header.get("version") != VERSION:
            found = header.get("version")
            raise IbpoError(f"{self.path}: is of version {found}, this ibpo writes {VERSION}; name another file")
        if header["settings"] != self._header["settings"]:
            now, before = self._header["settings"], header["settings"]
            changed = sorted(k for k in before if now.get(k) != before[k])
            if changed:
                raise IbpoError(
                    f"{self.path}: was started with other settings (in {', '.join(changed)}); name another file"
                )
        for number, line in enumerate(lines[1:], start=2):
            try:
                row = json.loads(line)
                self._asked[row["key"]] = row.get("asked")
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
                raise IbpoError(f"{self.path} line {number}: is not a rollout; remove the line") from None
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)


def settings_of(path: Path) -> dict[str, Any]:
    """The settings that a store was started with; empty where there is no store, or none that can be opened."""
    try:
        with path.open(encoding="utf-8") as file:
            return dict(json.loads(file.readline())["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def collect(sampler: Sampler, requests: Sequence[Request], store: RolloutStore) -> Collected:
    """Sample what the store lacks; each response is kept as soon as it is there.

    Raises:
        IbpoError: for two requests of one key.
    """
    if len({request.key for request in requests}) < len(requests):
        raise IbpoError("two requests have the same problem, response group and number; number them")
    missing = [request for request in requests if request not in store]
    failures = []
    num_new = 0
    for outcome in sampler.sample_requests(missing):
        if isinstance(outcome, IbpoError):
            failures.append(str(outcome))
            continue
        store.add(outcome)
        num_new += 1
    return Collected(num_new=num_new, failures=tuple(failures))
