"""The testing mode, used as users do: without a GPU, a model or waiting."""

import json
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import openai
import pytest
from typer.testing import CliRunner

import ibpo
from ibpo import testing
from ibpo.cli import app
from ibpo.errors import IbpoError
from ibpo.evaluation import Responses, compare
from ibpo.rewards import ExactJudge
from ibpo.rollouts import Request, score
from ibpo.serving import Candidate, Controller, ServingPolicy
from ibpo.types import Problem, ResponseGroup

SHORT, LONG = Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=1.0)
EXACT = testing.FakePolicy(tokens={"standard": 50, "extended": 400}, spread=0)


def client_of(url: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", **{"max_retries": 0, "timeout": 60, **options})


def ask(client: openai.OpenAI, content: Any = "What is 2 + 2?", **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="m", messages=messages, **options)


# The policy


def test_lengths_and_accuracy_are_as_given():
    policy = testing.FakePolicy(tokens={"a": 100, "b": 700}, accuracy={"a": {"1": 0.2, "2": 0.9}, "b": 0.5})
    log = testing.responses(policy, num_problems=1000, num_each=4, asked=testing.problems(1000, levels=2))
    group, level = np.array(log.response_group), np.array(log.level)
    assert log.tokens[group == "a"].mean() == pytest.approx(100, rel=0.03)
    assert log.tokens[group == "b"].mean() == pytest.approx(700, rel=0.03)
    assert len(set(log.tokens[group == "b"].tolist())) > 100
    right = [log.reward[(group == g) & (level == n)].mean() for g, n in (("a", "1"), ("a", "2"), ("b", "1"))]
    assert right == pytest.approx([0.2, 0.9, 0.5], abs=0.04)


def test_the_same_arguments_give_the_same_answers_whatever_was_asked_before():
    problem = testing.problems(1)[0]
    first = testing.FakePolicy(seed=3).answer(problem, "extended", 2)
    policy = testing.FakePolicy(seed=3)
    policy.answer(problem, "standard")
    assert policy.answer(problem, "extended", 2) == first != testing.FakePolicy(seed=4).answer(problem, "extended", 2)


def test_answers_are_read_by_the_groups_own_readers_and_judged():
    from ibpo.demo import THINKING

    groups = list(THINKING.response_groups)
    policy = testing.FakePolicy(
        tokens={group.name: 30 for group in groups},
        accuracy={group.name: i for i, group in enumerate(groups)},
        response_groups=groups,
    )
    problems = testing.problems(5)
    asked = [Request(problem=p, number=0, response_group=g.name, prefix=g.prefix) for p in problems for g in groups]
    sampled: Any = [*policy.sample_requests(asked)]
    scored = score([s.rollout for s in sampled], [r.problem for r in asked], groups, ExactJudge())
    assert [s.response_group for s in scored] == [r.response_group for r in asked]
    assert [s.reward for s in scored] == [0.0, 1.0] * 5


def test_the_policy_chooses_by_its_shares_and_is_cut_off_at_its_limit():
    policy = testing.FakePolicy(choice={"standard": 1, "extended": 3}, max_tokens=40, spread=0)
    chosen = [policy.choose(problem) for problem in testing.problems(2000)]
    assert chosen.count("extended") / 2000 == pytest.approx(0.75, abs=0.03)
    answer = policy.answer(testing.problems(1)[0])
    assert (answer.tokens, answer.finish_reason, answer.right, answer.answer) == (40, "length", False, "")
    assert len(answer.text.split()) == 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": {}}, "tokens: name at least one response group"),
        ({"tokens": {"a": 0}, "accuracy": {"a": 1}}, "tokens: a is 0"),
        ({"tokens": {"a": 9}, "accuracy": {}}, "accuracy: no number for response group 'a'"),
        ({"accuracy": {"standard": 2, "extended": 1}}, "accuracy: standard is 2"),
        ({"choice": {"extendd": 1}}, "did you mean extended"),
        ({"spread": -1}, "spread: is -1"),
        ({"max_tokens": 0}, "max_tokens: is 0"),
    ],
)
def test_a_policy_that_cannot_be_says_why(options, said):
    with pytest.raises(IbpoError, match=said):
        testing.FakePolicy(**options)


# Logs


def test_a_log_goes_through_allocation_evaluation_and_a_command(tmp_path):
    log = testing.responses(num_problems=40)
    allocation = ibpo.allocate(log.reward, log.problem, ibpo.share(log.response_group, "extended"), budget="1/4")
    assert allocation.spent[0] <= 0.25
    found = compare(Responses.of_table(log.rows))
    assert [row["name"] for row in found["configurations"]] == ["standard", "extended"]
    for name in ("log.jsonl", "log.json", "log.csv", "log.tsv"):
        path = log.write(tmp_path / name)
        done = subprocess.run(
            [sys.executable, "-m", "ibpo", "allocate", str(path), "--budget", "extended=30%"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "40 problems" in done.stdout, done.stdout
    with pytest.raises(IbpoError, match=r"log\.xml: cannot be written"):
        log.write(tmp_path / "log.xml")


# The clock


def test_time_passes_by_hand_only():
    clock = testing.Clock("2026-02-28 23:00")
    before = clock.time()
    clock.advance(1, minutes=59, hours=0, days=0)
    assert clock.time() - before == clock.monotonic() == 59 * 60 + 1
    clock.move_to("2026-02-01")
    assert clock.now().isoformat() == "2026-02-01T00:00:00+00:00"
    assert clock.monotonic() == 59 * 60 + 1  # a clock that is set back makes nothing younger
    with pytest.raises(IbpoError, match="time goes on only"):
        clock.advance(-1)
    with pytest.raises(IbpoError, match="no time"):
        clock.move_to("tomorrow")


def test_a_controller_takes_its_time_from_the_clock():
    clock = testing.Clock()
    controller = Controller(ServingPolicy.from_dict({"budget": {"x": {"mean": 0.5, "response_group": "long"}}}))
    assert controller.decide([SHORT, LONG], request_id="a", now=clock.time()).time == clock.time()


# Decisions


def test_both_branches_of_a_callers_code_can_be_reached():
    controller = Controller(ServingPolicy.from_dict({"budget": {"x": {"mean": 0.5, "response_group": "long"}}}))

    def decide(name):
        return controller.decide([SHORT, LONG], request_id=name, now=0.0)

    usual = Controller.decide, Controller._choose
    with testing.force("short"):
        assert decide("a").response_group == "short"
        with testing.force("long"):
            assert [decide(name).response_group for name in "bcdef"] == ["long"] * 5
        assert decide("g").response_group == "short"
        assert decide("b").response_group == "long"  # decided: a retry counts once
        with pytest.raises(IbpoError, match=r"force\('lomg'\): request 'h'.*did you mean long"), testing.force("lomg"):
            decide("h")
    with testing.used_up():
        reservation = decide("i")
    assert (reservation.response_group, reservation.within) == ("short", False)
    assert (Controller.decide, Controller._choose) == usual
    assert controller.balance_of("x") < 0  # what was forced is booked


def test_forcing_reaches_other_threads():
    controller = Controller(ServingPolicy.from_dict({"budget": {"x": {"mean": 0.5, "response_group": "long"}}}))
    seen = []
    with testing.force("short"):
        thread = threading.Thread(
            target=lambda: seen.append(controller.decide([SHORT, LONG], request_id="a", now=0.0).response_group)
        )
        thread.start()
        thread.join()
    assert seen == ["short"]


# The servers


def test_a_client_sees_a_server_of_openais_protocol():
    problems = testing.problems(3)
    policy = testing.FakePolicy(accuracy={"standard": 1, "extended": 1}, spread=0, problems=problems)
    with testing.upstream(policy) as server:
        client = client_of(server.url)
        assert [model.id for model in client.models.list()] == ["fake"]
        whole = ask(client, problems[1].prompt, reasoning_effort="low")
        assert whole.choices[0].message.content.endswith(f"The answer is {problems[1].answer}")
        assert whole.usage.completion_tokens == 120 == len(whole.choices[0].message.content.split())
        thinking = {"chat_template_kwargs": {"enable_thinking": True}}
        both = ask(client, problems[1].prompt, n=2, extra_body=thinking)
        assert (len(both.choices), both.usage.completion_tokens) == (2, 1800)
        cut = ask(client, problems[1].prompt, max_tokens=7, extra_body=thinking)
        assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 7)
        events = [
            *ask(client, problems[1].prompt, stream=True, stream_options={"include_usage": True}, extra_body=thinking)
        ]
        text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
        assert text.endswith(f"The answer is {problems[1].answer}") and events[-1].usage.completion_tokens == 900
        old = client.completions.create(model="m", prompt=str(problems[2].prompt), max_tokens=2000)
        assert old.choices[0].text.endswith(problems[2].answer)
    assert len(server.requests) == 5 and server.headers[0]["authorization"] == "Bearer none"


def test_failures_come_when_they_are_asked_for():
    with testing.upstream() as server:
        client = client_of(server.url)
        server.fail(429, retry_after=7)
        with pytest.raises(openai.RateLimitError) as limited:
            ask(client)
        assert limited.value.response.headers["retry-after"] == "7"
        server.fail(500, times=2)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="made up"):
                ask(client)
        server.fail(200, cut="before")
        with pytest.raises(openai.APIConnectionError):
            ask(client)
        server.fail(200, cut="middle", times=2)
        with pytest.raises(Exception, match=r"peer closed|reset|incomplete|disconnected|[Cc]onnection"):
            ask(client)
        with pytest.raises(Exception, match=r"peer closed|reset|incomplete|[Cc]onnection|Errno"):
            list(ask(client, stream=True))
        server.fail(200, malformed=True)
        with pytest.raises(json.JSONDecodeError):
            ask(client)
        server.fail(503, times=None)
        for _ in range(3):
            with pytest.raises(openai.InternalServerError):
                ask(client)
        server.recover()
        assert ask(client).choices
    with pytest.raises(IbpoError, match="status is 42"):
        server.fail(42)


def test_the_budget_of_today_is_used_up_and_tomorrow_it_is_open_again():
    with testing.gateway(policy=EXACT, settings={"calendar": {"day": {"tokens": 500}}}) as gateway:
        client = client_of(gateway.url)
        today = [ask(client).usage.completion_tokens for _ in range(3)]
        gateway.clock.advance(days=1)
        assert [*today, ask(client).usage.completion_tokens] == [400, 50, 50, 400]
        [day] = gateway.budget()["calendar"]
    assert day["spent"] == 400
    assert [row["response_group"] for row in gateway.requests] == ["extended", "standard", "standard", "extended"]


def test_a_share_is_held_on_a_clients_requests():
    with testing.gateway("extended=30%", policy=EXACT) as gateway:
        client = client_of(gateway.url)
        asked = [ask(client, f"question {i}").usage.completion_tokens for i in range(40)]
        [budget] = gateway.budget()["budgets"]
    assert budget["used"] == asked.count(400) / 40 <= 0.35


def test_a_session_begins_again_once_it_has_been_idle():
    # Not before four times `total_seconds`: until then an answer may be in flight.
    tables = {"session": {"tokens": 500, "idle_seconds": 60}, "upstream": {"total_seconds": 30}}
    with testing.gateway(policy=EXACT, settings=tables) as gateway:
        client = client_of(gateway.url, default_headers={"x-ibpo-session": "run"})
        assert [ask(client).usage.completion_tokens for _ in range(2)] == [400, 50]
        gateway.clock.advance(119)
        assert ask(client).usage.completion_tokens == 50  # and is not idle
        gateway.clock.advance(121)
        assert ask(client).usage.completion_tokens == 400


def test_commands_ask_a_fake_server(tmp_path):
    """As a script around `ibpo eval` and `ibpo collect` would be tested: the numbers are those of the policy."""
    asked = testing.problems(12)
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"problem": p.prompt, "answer": p.answer}) + "\n" for p in asked))
    policy = testing.FakePolicy(problems=asked, accuracy={"standard": 0.0, "extended": 1.0}, spread=0)
    runner = CliRunner()
    with testing.upstream(policy) as server:
        done = runner.invoke(
            app,
            ["eval", "any", str(path), "--base-url", server.url, "--out", str(tmp_path / "eval"),
             "--response-group", "effort_low", "--response-group", "effort_high"],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        again = runner.invoke(
            app,
            ["collect", str(path), "--model", "any", "--base-url", server.url, "--out", str(tmp_path / "collect"),
             "--by", "effort=low,high", "--budget", "tokens=500", "--limit", "calls=100"],
        )  # fmt: skip
        assert again.exit_code == 0, again.output
    low, high = (
        next(line for line in done.stdout.splitlines() if f" effort_{x} " in line[:14]) for x in ("low", "high")
    )
    assert "0.0%" in low and " 120 " in low and "100.0%" in high and " 900 " in high
    assert "choosing per problem is not worth it on this log" in again.stdout  # all problems are alike


def test_the_gateways_time_outs_go_by_the_clock():
    with testing.gateway(
        policy=EXACT, settings={"upstream": {"first_byte_seconds": 300, "total_seconds": 600, "retries": 0}}
    ) as gateway:
        gateway.upstream.fail(200, seconds=10_000)
        failed = []

        def wait():
            try:
                ask(client_of(gateway.url))
            except openai.APIStatusError as error:
                failed.append(error.status_code)

        thread = threading.Thread(target=wait)
        thread.start()
        while not gateway.upstream.requests:
            thread.join(0.01)
        gateway.clock.advance(301)
        thread.join(30)
        assert failed == [504]
        assert ask(client_of(gateway.url)).choices  # and it goes on
    assert gateway.requests[0]["outcome"] in ("cut", "failed")


def test_a_decision_is_forced_in_the_gateway_and_failures_reach_the_client():
    with testing.gateway("extended=30%", policy=EXACT, settings={"upstream": {"retries": 0}}) as gateway:
        client = client_of(gateway.url)
        with testing.force("standard"):
            assert [ask(client).usage.completion_tokens for _ in range(3)] == [50] * 3
        with pytest.raises(IbpoError, match=r"force\('standrd'\).*did you mean standard"), testing.force("standrd"):
            ask(client)  # is answered, as where a store fails
        with testing.force("extended"):
            assert [ask(client).usage.completion_tokens for _ in range(3)] == [400] * 3
        gateway.upstream.fail(429)
        with pytest.raises(openai.RateLimitError):
            ask(client)


def test_three_response_groups_and_settings_that_are_wrong():
    policy = testing.FakePolicy(
        tokens={"low": 20, "medium": 100, "high": 500}, accuracy={"low": 0.2, "medium": 0.6, "high": 0.8}, spread=0
    )
    with testing.gateway("tokens=150", policy=policy) as gateway, testing.force("medium"):
        assert ask(client_of(gateway.url)).usage.completion_tokens == 100
    with pytest.raises(IbpoError, match="calendar"), testing.gateway(settings={"calendar": {"dy": {}}}):
        pass
    with pytest.raises(IbpoError, match="budget is 30; give a text"), testing.gateway(30):  # pyright: ignore[reportArgumentType]
        pass
    with testing.upstream() as server:
        with pytest.raises(IbpoError, match="status is 'timeout'; give one from 200 to 599"):
            server.fail("timeout")  # pyright: ignore[reportArgumentType]
        with pytest.raises(IbpoError, match="fail: no retry; there are status, retry_after, seconds"):
            server.fail(429, retry=1)


# The trainer


@pytest.mark.slow
def test_a_reward_function_goes_through_real_updates_of_a_tiny_model(tmp_path):
    pytest.importorskip("trl")
    seen = []

    def reward(completions, answer, **columns):
        seen.extend(answer)
        return [float("7" in text) for text in completions]

    groups = [ResponseGroup(name="short", prefix="<answer>"), ResponseGroup(name="long", prefix="<think>\n")]
    trainer = testing.trainer(reward, groups, tmp_path, budget={"long": 0.25}, max_steps=2)
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.global_step == 2 and len(seen) == 32
    assert any((a != b).any() for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert all(row["ibpo/spent/long"] <= 0.25 + 1e-9 for row in trainer.state.log_history if "ibpo/spent/long" in row)
    assert trainer.state.log_history[0]["ibpo/share/long"] == pytest.approx(0.225, abs=0.05)


def test_a_trainer_needs_two_response_groups(tmp_path):
    with pytest.raises(IbpoError, match="two or more"):
        testing.trainer(lambda **_: [], [ResponseGroup(name="short", prefix="a")], tmp_path)


# In production


def test_nothing_of_testing_is_imported_or_active_unless_it_is_asked_for():
    code = (
        "import sys, ibpo, ibpo.serving, ibpo.allocation, ibpo.cli\n"
        "from ibpo.serving import Controller\n"
        "from ibpo.serving.gateway import Service\n"
        "print(any(name.startswith('ibpo.testing') for name in sys.modules), Controller.decide.__module__)\n"
        "import ibpo.testing\n"
        "from ibpo.testing import Clock, FakePolicy, force, responses\n"
        "responses(num_problems=2)\n"
        "print(Controller.decide.__module__)\n"
        "print([name for name in ('torch', 'aiohttp', 'openai', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    own = "ibpo.serving.controller.controller"
    assert done.stdout.splitlines()[:2] == [f"False {own}", own]
    assert "torch" not in done.stdout.splitlines()[2]


def test_public_names_of_the_room_are_pinned():
    assert testing.__all__ == [
        *("Clock", "FakeAnswer", "FakeGateway", "FakePolicy", "FakeUpstream", "Fault", "ResponseLog", "force"),
        *("gateway", "problems", "responses", "tiny_model", "tiny_tokenizer", "trainer", "upstream", "used_up"),
    ]


def test_a_problem_of_ones_own_is_asked():
    own = [Problem(problem_id="capital", prompt="Capital of France?", answer="Paris")]
    log = testing.responses(testing.FakePolicy(accuracy={"standard": 1, "extended": 0}), asked=own, num_each=1)
    assert log.answer == ["Paris", "not Paris"] and log.prompt == ["Capital of France?"] * 2
