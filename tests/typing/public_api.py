"""Every public name as users write it, for type checkers alone: pyright and mypy read this file, nobody runs it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

import ibpo
from ibpo import (
    Allocation,
    Frontier,
    IBPOConfig,
    IbpoError,
    IBPOTrainer,
    InfeasibleBudget,
    Problem,
    ResponseGroup,
    Rollout,
    ScoredResponse,
    allocate,
    frontier,
    limit,
    reward_margin,
    share,
    slices,
    stack,
)
from ibpo.allocation import Limit
from ibpo.evaluation import CompareOptions, Evaluation, Responses, compare
from ibpo.rollouts import Request, Sampled, Sampler, ScriptedSampler
from ibpo.serving import BudgetPolicy, Candidate, Controller, Reservation, ServingPolicy, SqliteStore, read_policy
from ibpo.testing import (
    Clock,
    FakeAnswer,
    FakeGateway,
    FakePolicy,
    FakeUpstream,
    Fault,
    ResponseLog,
    force,
    gateway,
    problems,
    responses,
    tiny_model,
    tiny_tokenizer,
    trainer,
    upstream,
    used_up,
)

Floats = NDArray[np.float64]


def reward(completions: list[str], **columns: Any) -> list[float]:
    """Of a user."""
    return [float(len(completion)) for completion in completions]


def allocating(group: list[str], utility: list[float], problem: list[int]) -> None:
    """The allocation."""
    assert_type(ibpo.__version__, str)
    cost = share(group, "long")
    found = allocate(utility, problem, cost, budget="1/3", at_least=None, choose="at_most_one", time_limit_s=1.0)
    assert_type(found, Allocation)
    assert_type(found.weight, NDArray[np.int8])
    assert_type(found.objective, float)
    assert_type(found.spent, Floats)
    assert_type(found.price, Floats)
    assert_type(found.budget, Floats)
    assert_type(found.num_problems, int)
    assert_type(str(found), str)
    rows: list[Limit] = [limit(cost, problem, at_most=0.5), *slices(cost, problem, group, at_most="1/4")]
    assert_type(stack(rows), dict[str, Any])
    assert_type(allocate(utility, problem, **stack(rows)), Allocation)
    assert_type(reward_margin(utility, problem, group), Floats)
    curve = frontier(utility, problem, [1.0, 2.0])
    assert_type(curve, Frontier)
    assert_type(curve.at(0.5).value, float)
    assert_type(curve.plot(budget=[1, "3/2"], color="black"), Axes)
    try:
        allocate(utility, problem, cost, budget=0.0, at_least=0.5)
    except InfeasibleBudget as error:
        assert_type(error.budget, float)
    except IbpoError as error:
        print(error)


def training(model: str, dataset: Any, groups: Sequence[ResponseGroup]) -> None:
    """The trainer."""
    args = IBPOConfig(output_dir="out", budget={"long": 0.5}, num_generations=8)
    made = IBPOTrainer(model=model, reward_funcs=reward, response_groups=groups, args=args, train_dataset=dataset)
    assert_type(made.args, IBPOConfig)


def nouns(completion: str) -> None:
    """What data consists of."""
    group = ResponseGroup(name="long", prefix="<think>", extract_answer=lambda text: text or None)
    assert_type(group.matches(completion), bool)
    problem = Problem(problem_id="p", prompt="1 + 1", answer="2", level="1", info={"source": "mine"})
    assert_type(problem.info, Mapping[str, Any])
    rollout = Rollout(
        problem_id="p", prompt_token_ids=(1,), completion_token_ids=(2, 3), completion=completion, finish_reason="stop"
    )
    scored = ScoredResponse(rollout=rollout, response_group="long", predicted_answer="2", reward=1.0, cost=2.0)
    assert_type(scored.predicted_answer, str | None)
    sampler: Sampler = ScriptedSampler(answer=lambda request: request.problem.answer)
    assert_type(sampler.sample_requests([Request(problem=problem, number=0)]), Iterator[Sampled | IbpoError])


def evaluating(rows: list[dict[str, Any]]) -> None:
    """The evaluation."""
    found = compare(Responses.of_table(rows), CompareOptions(standard="low"))
    assert_type(found, Evaluation)
    assert_type(str(found), str)


def serving(path: Path) -> None:
    """The controller."""
    policy: ServingPolicy = read_policy(path)
    policy = ServingPolicy.from_dict({}, [BudgetPolicy(name="tokens", mean=300.0)])
    controller = Controller(policy, SqliteStore(str(path), ["tokens"]))
    found = controller.decide(
        [Candidate(response_group="short", gain=0.0, cost={"tokens": 30.0})], request_id="a", now=Clock().time()
    )
    assert_type(found, Reservation)
    assert_type(found.within, bool)
    assert_type(controller.settle("a", {"tokens": 31.0}), bool)


def testing(folder: Path) -> None:
    """The testing mode."""
    own = FakePolicy(tokens={"short": 20, "long": 300}, accuracy={"short": {"1": 0.5}, "long": 0.9})
    assert_type(own.answer(problems(1)[0], "long"), FakeAnswer)
    sampler: Sampler = own
    print(sampler)
    log = responses(own, num_problems=10)
    assert_type(log, ResponseLog)
    assert_type(log.reward, Floats)
    assert_type(log.rows, list[dict[str, Any]])
    assert_type(log.write(folder / "log.jsonl"), Path)
    assert_type(Fault(status=429).status, int)
    with upstream(own) as server:
        assert_type(server, FakeUpstream)
        server.fail(429, times=2, retry_after=1.0)
    with gateway("long=30%", policy=own, clock=Clock("2026-01-31")) as served, force("long"), used_up():
        assert_type(served, FakeGateway)
        served.clock.advance(days=1)
        assert_type(served.budget(), dict[str, Any])
    groups = [ResponseGroup(name="short", prefix="a"), ResponseGroup(name="long", prefix="b")]
    tokenizer = tiny_tokenizer(groups)
    tiny_model(tokenizer).eval()
    assert_type(trainer(reward, groups, folder, max_steps=1), IBPOTrainer)
