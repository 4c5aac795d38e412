"""The plan of `ibpo collect`: its looks share one error, its rounds keep the limits, its answers are as many as pay."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ibpo.errors import IbpoError
from ibpo.evaluation import (
    ERROR,
    MOST,
    Look,
    PromptLog,
    Target,
    answers_of,
    calls_to,
    first_target,
    next_target,
    num_looks,
    read_prompt_log,
    stratified_order,
    what_more,
    why_stop,
)
from ibpo.evaluation.collection import FEWEST, MAX_LOOKS, error_of
from ibpo.types import Problem


def look(**more):
    known = {"error": 0.02, "gain": 0.0, "low": -0.1, "high": 0.1, "num_problems": 24, "num_responses": 96,
             "answers": 2.0, "between": 0.1, "within": 0.3, "per_problem": False}  # fmt: skip
    return Look(**{**known, **more})


@pytest.mark.parametrize("looks", range(1, MAX_LOOKS + 1))
def test_all_looks_together_err_by_five_percent(looks):
    left, spent = ERROR, []
    for number in range(looks):
        spent.append(error_of(number, looks, left))
        left -= spent[-1]
    assert np.isclose(sum(spent), ERROR) and all(error > 0 for error in spent)
    assert looks == 1 or spent[0] == min(spent)


def test_as_many_answers_as_say_most_for_their_calls():
    def ratio(n, between, within):  # gain over its standard error, for a given number of calls
        return between / np.sqrt(between + 2 * within / n) / np.sqrt((between + within / n) * n)

    for between, within in ((0.1, 0.3), (0.2, 0.2), (0.05, 0.2), (0.3, 0.1)):
        n = np.arange(FEWEST, MOST + 1)
        assert abs(look(between=between, within=within).best_answers - n[ratio(n, between, within).argmax()]) <= 1
    assert look(between=0.0, within=0.2).best_answers == MOST and look(between=0.2, within=0.0).best_answers == FEWEST


@pytest.mark.parametrize("seed", range(30))
def test_no_round_asks_for_more_than_the_limits_and_some_round_ends_it(seed):
    rng = np.random.default_rng(seed)
    logged = (rng.random((int(rng.integers(3, 200)), int(rng.integers(2, 4)))) < 0.3).astype(np.int64)
    limit = float(rng.integers(20, 3000))
    targets = [first_target(logged, limit)]
    calls = [float(calls_to(targets, logged).sum())]
    looks = num_looks(calls[0], limit)
    for number in range(1, looks + 1):
        seen = look(
            gain=float(rng.normal(0, 0.05)),
            between=float(rng.choice([0.0, 0.05, 0.3])),
            num_problems=int((answers_of(targets, len(logged)) > 0).sum()),
            answers=float(rng.integers(2, 9)),
        )
        left = limit - calls[-1]
        target = next_target(targets, seen, logged, calls_left=left, looks_left=looks - number, precision=0.01)
        if target is None:
            break
        more = float(calls_to([target], logged, targets).sum())
        targets.append(target)
        assert more > 0
        # Never beyond the limit, but for what one problem takes.
        assert more <= max(left, logged.shape[1] * MOST)
        calls.append(calls[-1] + more)
        assert np.isclose(calls_to(targets, logged).sum(), calls[-1])
    assert len(calls) <= looks
    whole = calls_to([Target(num_problems=len(logged), answers=MOST)], logged).sum()
    assert calls[-1] <= whole


def test_when_all_prompts_are_asked_more_answers_must_narrow_the_interval():
    logged = np.zeros((30, 2), np.int64)
    asked = [Target(num_problems=30, answers=2)]
    alike, noisy = look(between=0.2, within=0.0), look(between=0.2, within=0.4)
    known = {"calls_left": 1e6, "looks_left": 2, "precision": 0.01}
    assert next_target(asked, alike, logged, **known) is None
    more = next_target(asked, noisy, logged, **known)
    assert more is not None and more.answers > 2


def test_why_it_stops():
    assert "above 0" in why_stop(look(low=0.01, per_problem=True), 0.02)
    assert "below 0" in why_stop(look(low=-0.2, high=-0.01), 0.02)
    assert not why_stop(look(), 0.02) and not why_stop(look(low=0.01), 0.02)  # over the budget: no choice to recommend
    narrow = look(low=-0.01, high=0.01)
    assert not why_stop(narrow, 0.02)  # four answers would let the choice see more
    assert "within" in why_stop(look(low=-0.01, high=0.01, answers=4.0), 0.02)


def test_what_more_calls_would_tell_counts_the_problems_that_the_log_answers():
    """Where the log itself held the answers that were looked at, another 0 calls were to halve the interval."""
    asked, seen = [Target(num_problems=24, answers=2)], look(answers=4.0)
    none, all_of_them = np.zeros((100, 2), np.int64), np.full((100, 2), 2)
    first = none.copy()
    first[:24] = 2
    for logged in (none, first):  # 72 more problems, two answers in each of two groups
        assert what_more(seen, asked, logged, None) == "Another 288 calls would halve the interval."
    assert what_more(seen, asked, first[:48], None).startswith(
        "The log's other prompts would take 96 calls and bring the interval to about 0.071 on either side"
    )
    assert "All prompts of the log are asked" in what_more(seen, asked, all_of_them, None)


def test_every_beginning_of_the_order_is_in_proportion():
    problems = [
        Problem(problem_id=f"p{i}", prompt="x" * (i % 7 + 1), answer="", info={"show": ("abc"[i % 10 // 5],)})
        for i in range(400)
    ]
    log = PromptLog(problems=problems, logged={}, notes=())
    order = stratified_order(log, seed=3)
    assert sorted(p.problem_id for p in order) == sorted(p.problem_id for p in problems)
    for size in (20, 50, 133, 400):
        share = np.mean([p.info["show"][0] == "a" for p in order[:size]])
        assert abs(share - 0.5) <= 8 / 2 / size  # half a prompt in each of eight strata
    assert [p.problem_id for p in stratified_order(log, seed=4)] != [p.problem_id for p in order]


def test_prompts_of_gateways_are_asked_again_whole(tmp_path):
    """LiteLLM's empty `messages` hid its requests; Helicone's answers and the system's words of spans were lost."""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    said = {"object": "chat.completion", "choices": [{"message": {"content": "4"}, "finish_reason": "length"}]}
    request = {"model": "m", "messages": chat, "reasoning_effort": "low"}
    parts = [{"role": one["role"], "parts": [{"type": "text", "content": one["content"]}]} for one in chat]
    rows = {
        "litellm": {"request_id": "r", "spend": 0.4, "startTime": "t", "completion_tokens": 5, "messages": "{}",
                    "model": "m", "proxy_server_request": request, "response": said},
        "helicone": {"request_id": "r", "completion_tokens": 5, "response_status": 200, "model": "m",
                     "request_properties": {}, "request_body": json.dumps(request), "response_body": json.dumps(said)},
        "otel": {"context": {"trace_id": "t", "span_id": "s"}, "parent_id": None, "attributes": {
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.output_tokens": 5,
            "gen_ai.response.finish_reasons": ["length"], "my.effort": "low", "gen_ai.input.messages": parts[1:],
            "gen_ai.system_instructions": json.dumps(parts[0]["parts"]),
            "gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "4"}]}]}},
    }  # fmt: skip
    for tool, row in rows.items():
        path = tmp_path / f"{tool}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        log = read_prompt_log(path, {})
        assert [problem.prompt for problem in log.problems] == [chat], tool
        [[logged]] = log.logged.values()
        assert (logged.completion, logged.tokens, logged.finish_reason) == ("4", 5, "length"), tool
        assert (logged.response_group, logged.model) == ("low", "m"), tool
    path.write_text(json.dumps({**rows["helicone"], "response_status": 500}) + "\n")
    with pytest.raises(IbpoError, match=r"no rows \(1 left out: failed requests\); a log needs"):
        read_prompt_log(path, {})


def test_prompts_as_they_were_sent(tmp_path):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "1 + 1 ="}]},
        {"role": "assistant", "content": "2"},
    ]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    rows = [
        {"id": "a", "messages": chat, "gold": "2"},
        {"id": "b", "messages": json.dumps(chat[1:]), "gold": "2"},
        {"id": "c", "messages": image, "gold": "2"},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_prompt_log(path, {})
    user = {"role": "user", "content": "1 + 1 ="}
    assert [p.prompt for p in log.problems] == [[{"role": "system", "content": "Be brief."}, user], [user]]
    assert any("images" in note for note in log.notes)
    path.write_text(path.read_text() + json.dumps({"id": "a", "messages": "1 + 2 =", "gold": "3"}) + "\n")
    with pytest.raises(ValueError, match="problem a has another prompt"):
        read_prompt_log(path, {})


def test_an_empty_cell_of_a_table_is_nothing(tmp_path):
    """Python writes NaN for it, which was a gold answer that no response equals, and a level."""
    empty = dict.fromkeys(("gold", "level", "domain", "kind"), float("nan"))
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"id": i, "prompt": f"{i} + 1 =", "gold": "2", "kind": "a"} | more) + "\n"
                            for i, more in enumerate(({}, empty))))  # fmt: skip
    first, second = read_prompt_log(path, {}, show=["kind"]).problems
    assert (first.answer, first.info["show"]) == ("2", ("a",))
    assert (second.answer, second.level, second.info["domain"], second.info["show"]) == ("", "", "", ("",))


def test_a_batch_keeps_the_system_message(tmp_path):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1 ="}]
    body = {"model": "m", "messages": asked, "reasoning_effort": "low"}
    request = {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    answer = {"id": "x", "object": "chat.completion", "model": "m", "usage": {"completion_tokens": 3},
              "choices": [{"message": {"role": "assistant", "content": "2"}, "finish_reason": "stop"}]}  # fmt: skip
    done = {"custom_id": "q1", "response": {"status_code": 200, "body": answer}, "error": None}
    (tmp_path / "input.jsonl").write_text(json.dumps(request) + "\n")
    (tmp_path / "output.jsonl").write_text(json.dumps(done) + "\n")
    log = read_prompt_log(tmp_path, {})
    assert [p.prompt for p in log.problems] == [asked]
    [[found]] = log.logged.values()
    assert (found.response_group, found.tokens, found.completion, found.model) == ("low", 3.0, "2", "m")
