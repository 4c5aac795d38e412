"""The run of `ibpo collect`: what is asked, stored, paid and judged, so that a run that was killed goes on."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ibpo.commands.eval_setup import EvalProgress
from ibpo.endpoint import Endpoint, NotServed, RefusedRequest
from ibpo.errors import IbpoError
from ibpo.evaluation import Logged, Look, Spending, Target, Way, answers_of, judge_stored, use_of
from ibpo.rewards import Judge
from ibpo.rollouts import EndpointSampler, Request, RolloutStore, Sampled
from ibpo.runs import Journal, write_text_atomic
from ibpo.types import Problem

Json = dict[str, Any]
pause = time.sleep
FATAL = (401, 403, 404)
"""Statuses that waiting does not change: the key, the address, the model's name."""
MAX_IDLE = 6
"""Passes without one response, each after a longer wait, before a server is given up."""
MAX_TRIES = 3
"""Most tries of one request that may have been answered, each of them paid for."""
BATCH = 64
"""Responses that are judged before their judgements are written down."""
OVER = 16
"""Tokens by which a completion may be longer than asked: servers count the end of a response, and forced openings."""


@dataclass(kw_only=True)
class Plan:
    """`OUT/plan.json`: what will be asked, and what was seen. Saved before anything of a round is asked."""

    path: Path
    problems: str
    """Fingerprint of the log's prompts and gold answers, in their order."""
    looks: int = 0
    """How many there will be."""
    error: float = 0.0
    """Error of all looks together: 1 - confidence level."""
    targets: list[Target] = field(default_factory=list[Target])
    done: list[Look] = field(default_factory=list[Look])
    num_rows: int = 0
    """Responses that the last look saw."""
    limits: list[float] = field(default_factory=list[float])
    """For which the looks were planned."""

    @classmethod
    def open(cls, path: Path, problems: str) -> Plan:
        """Read what there is, or begin.

        Raises:
            IbpoError: The file is damaged, or of other prompts.
        """
        if not path.exists():
            return cls(path=path, problems=problems)
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            found = cls(
                path=path,
                problems=row["problems"],
                looks=row["looks"],
                error=row["error"],
                targets=[Target(**target) for target in row["targets"]],
                done=[Look(**_numbers(look)) for look in row["done"]],
                num_rows=row["num_rows"],
                limits=[float(x) for x in row["limits"]],
            )
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            raise IbpoError(f"{path}: is damaged; name another folder with --out") from None
        if found.problems != problems:
            raise IbpoError(f"{path}: was begun with other prompts, gold answers or --show; name another folder")
        return found

    def save(self) -> None:
        """Write it, whole or not at all."""
        done = [{k: str(v) if v in (math.inf, -math.inf) else v for k, v in asdict(x).items()} for x in self.done]
        row = {"problems": self.problems, "looks": self.looks, "error": self.error, "num_rows": self.num_rows,
               "limits": list(map(str, self.limits)), "targets": [asdict(x) for x in self.targets],
               "done": done}  # fmt: skip
        write_text_atomic(self.path, json.dumps(row, indent=1) + "\n")

    @property
    def error_left(self) -> float:
        """What the looks that are left may err by."""
        return max(0.0, self.error - sum(look.error for look in self.done))


def _numbers(row: Json) -> Json:
    return {key: float(value) if isinstance(value, str) else value for key, value in row.items()}


def logged_counts(
    order: Sequence[Problem], groups: Sequence[str], counted: Mapping[str, Sequence[Logged]]
) -> NDArray[np.int64]:
    """`[P, G]` responses of the log that count."""
    counts = [Counter(one.response_group for one in counted.get(p.problem_id, ())) for p in order]
    return np.array([[count[group] for group in groups] for count in counts], np.int64).reshape(-1, len(groups))


@dataclass(kw_only=True)
class Run:
    """What is asked of whom, and what it gave."""

    out: Path
    order: Sequence[Problem]
    ways: Mapping[str, Way]
    """By response group."""
    samplers: Mapping[str, EndpointSampler]
    endpoint: Endpoint
    store: RolloutStore
    spending: Spending
    counted: Mapping[str, Sequence[Logged]]
    """Problem id -> responses of the log that count."""
    judge: Judge
    judge_name: str
    read: Callable[[str], str | None]
    console: Console
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Key -> why; asked again by the next run."""
    fatal: IbpoError | None = None
    """What ends the run once the calls in flight are over: their answers are paid for."""

    @property
    def logged_PG(self) -> NDArray[np.int64]:
        """`[P, G]` responses that the log holds."""
        return logged_counts(self.order, list(self.ways), self.counted)

    def requests(self, targets: Sequence[Target]) -> list[Request]:
        """What the targets take beyond the log, one problem after the other."""
        made: list[Request] = []
        logged = self.logged_PG
        for p, answers in enumerate(answers_of(targets, len(self.order)).tolist()):
            for g, way in enumerate(self.ways.values() if answers else ()):
                own = way.requests([self.order[p]], answers)
                made += [request for request in own if request.number >= logged[p, g]]
        return made

    def ask(self, requests: Sequence[Request], title: str) -> bool:
        """Ask for what is missing; False where the limits leave no room for all of it.

        Raises:
            IbpoError: The server is given up; what it answered is kept.
        """
        waiting = deque(r for r in requests if r not in self.store and r.key not in self.refused)
        num_kept = len(requests) - len(waiting)
        if not waiting:
            return True
        tries: Counter[str] = Counter()
        num_idle, said = 0, ""
        with EvalProgress(
            self.console, len(requests), num_kept, None, more=lambda: f"{title}, {self.spending.text}"
        ) as progress:
            while waiting:
                sent: list[tuple[Request, int]] = []
                again: list[Request] = []
                num_new = 0
                for position, outcome in self.endpoint.map(self._sample, self._begin(waiting, sent)):
                    request, number = sent[position]
                    progress.on_outcome(outcome)
                    tries[request.key] += 1
                    if isinstance(outcome, IbpoError):
                        said = str(outcome)
                        self._failed(request, number, outcome, again, tries)
                    else:
                        num_new += 1
                        self._answered(number, outcome)
                if self.fatal is not None:
                    raise self.fatal
                if not sent and said and not len(self.store):  # all that could be spent got failures
                    raise IbpoError(f"{said}; no response was got, and the limits leave no room to ask again")
                if not sent:
                    return False
                waiting.extendleft(reversed(again))
                num_idle = 0 if num_new or not again else num_idle + 1
                if num_idle == MAX_IDLE or (len(self.refused) >= 16 and not len(self.store)):
                    raise IbpoError(f"{said}; {len(self.store)} responses are kept: run the same command again")
                if again:
                    pause(min(60.0, 2.0**num_idle))
        return True

    def _begin(self, waiting: deque[Request], sent: list[tuple[Request, int]]) -> Iterator[Request]:
        """The next requests, each reserved when its turn comes; ends where there is no room for the next."""
        while waiting and self.fatal is None:
            number = self.spending.reserve(waiting[0], self._text(waiting[0]))
            if number is None:
                return
            request = waiting.popleft()
            sent.append((request, number))
            yield request

    def _text(self, request: Request) -> str:
        messages = self.samplers[request.response_group].messages(request)
        return request.prefix + "".join(message["role"] + message["content"] for message in messages)

    def _sample(self, request: Request) -> Sampled:
        return self.samplers[request.response_group].sample(request)

    def _answered(self, number: int, sampled: Sampled) -> None:
        self.store.add(sampled)
        use = use_of(sampled.num_prompt_tokens, sampled.num_completion_tokens, sampled.num_thinking_tokens)
        self.spending.settle(number, use)
        most = self.spending.max_tokens  # with what is allowed above
        if use is not None and use.output > most and self.spending.prices is not None:
            self.fatal = IbpoError(
                f"{self.endpoint.base_url}: gave a response of {use.output:.0f} tokens where at most {most - OVER} "
                "were asked for, so no limit on money can be kept; give a larger --max-tokens, or name another server"
            )

    def _failed(
        self, request: Request, number: int, error: IbpoError, again: list[Request], tries: Counter[str]
    ) -> None:
        self.spending.settle(number, None, served=not isinstance(error, NotServed))
        if isinstance(error, NotServed) and error.status in FATAL:
            self.fatal = IbpoError(str(error))
        elif isinstance(error, RefusedRequest) or (
            not isinstance(error, NotServed) and tries[request.key] >= MAX_TRIES
        ):
            self.refused[request.key] = str(error)
        else:
            again.append(request)

    def judged(self, targets: Sequence[Target]) -> list[Json]:
        """Rows of all responses there are, of the log and asked for, each judged once."""
        journal = Journal(self.out / "judged.jsonl")
        head, *lines = journal.rows() or [{}]
        if head != {"judge": self.judge_name}:
            write_text_atomic(journal.path, json.dumps({"judge": self.judge_name}) + "\n")
            lines = []
        rows: dict[str, Json] = {line["key"]: line["row"] for line in lines}
        todo = [one for one in self._found(targets) if one[0].key not in rows]
        for first in range(0, len(todo), BATCH):
            batch = todo[first : first + BATCH]
            by_group: dict[str, list[tuple[Request, Json]]] = {}
            for request, found in batch:
                by_group.setdefault(request.response_group, []).append((request, found))
            new = [
                {"key": request.key, "row": row}
                for group, some in by_group.items()
                for (request, _), row in zip(some, self._judge(self.ways[group], some), strict=True)
            ]
            journal.add(*new)
            rows |= {line["key"]: line["row"] for line in new}
        return list(rows.values())

    def _found(self, targets: Sequence[Target]) -> list[tuple[Request, Json]]:
        """Each response with its request, those of the log as the store would keep them."""
        stored = {row["key"]: row for row in self.store.rows()}
        found = [(r, stored[r.key]) for r in self.requests(targets) if r.key in stored]
        for problem, answers in zip(self.order, answers_of(targets, len(self.order)).tolist(), strict=True):
            if answers:
                found += [(request, row) for request, row, _ in self._logged(problem)]
        return found

    def _logged(self, problem: Problem) -> Iterator[tuple[Request, Json, Logged]]:
        number: Counter[str] = Counter()
        for one in self.counted.get(problem.problem_id, ()):
            request = self.ways[one.response_group].requests([problem], number[one.response_group] + 1)[-1]
            number[one.response_group] += 1
            row = {"problem_id": problem.problem_id, "completion": one.completion, "finish_reason": one.finish_reason,
                   "num_prompt_tokens": None, "num_completion_tokens": one.tokens, "logged": True,
                   "reward": one.reward}  # fmt: skip
            yield request, row, one

    def _judge(self, way: Way, some: Sequence[tuple[Request, Json]]) -> list[Json]:
        """Rows of responses of one way; those of which the log keeps no text have the log's reward."""
        texts = [(request, found) for request, found in some if found["completion"] is not None]
        made = iter(judge_stored(way, [r for r, _ in texts], [f for _, f in texts], self.judge, None, self.read))
        rows: list[Json] = []
        for request, found in some:
            problem = request.problem
            if found["completion"] is None:
                row: Json = {
                    "problem_id": problem.problem_id,
                    "configuration": way.configuration,
                    "number": request.number,
                    "reward": found["reward"],
                    "tokens": found["num_completion_tokens"],
                    "finish_reason": found["finish_reason"],
                    "level": problem.level,
                    "prompt": problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"],
                }
            else:
                row = next(made)
            # Whatever the text opens like: this is how it was asked for.
            row |= {"response_group": request.response_group}
            if found.get("logged"):
                row |= {"logged": True, "logged_reward": found["reward"]}
            rows.append(row)
        return rows
