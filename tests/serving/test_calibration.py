import json
import shlex
import shutil
import tomllib
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.demo import model_path
from ibpo.errors import IbpoError
from ibpo.serving.calibration import MAX_SCORES, Calibration, find_threshold, load_calibration, save_calibration

probabilities = arrays(float, st.integers(1, 40), elements=st.floats(0, 1))
# Few distinct values: most prompts are tied, as with a saturated policy.
tied = arrays(float, st.integers(1, 40), elements=st.sampled_from([0.0, 0.2, 0.5, 1.0]))


@given(st.one_of(probabilities, tied), st.floats(0, 1))
def test_the_calibration_share_is_exact(p, share):
    found = find_threshold(p, share)
    assert found.choose(p).sum() == np.floor(share * len(p) + 1e-9) == round(found.calibration_share * len(p))


@given(probabilities, st.floats(0, 1))
def test_a_likelier_prompt_is_never_passed_over(p, share):
    chosen = find_threshold(p, share).choose(p)
    if chosen.any() and not chosen.all():
        assert p[chosen].min() >= p[~chosen].max()


@given(tied, st.floats(0, 1), st.floats(0, 1))
def test_more_budget_never_raises_the_threshold(p, a, b):
    assert find_threshold(p, max(a, b)).value <= find_threshold(p, min(a, b)).value


def test_the_share_on_unseen_prompts_is_unbiased():
    rng = np.random.default_rng(0)
    shares = [find_threshold(rng.random(39), 0.25).choose(rng.random(500)).mean() for _ in range(2000)]
    # m = 9 of 39: the halfway threshold is exceeded with probability (m + 1/2) / (n + 1).
    assert np.mean(shares) == pytest.approx(9.5 / 40, abs=0.005)


@given(st.one_of(probabilities, tied), st.floats(0, 1), st.sampled_from([0.2, 0.5, 1.0]))
def test_a_floor_takes_back_those_at_or_below_it_and_no_other(p, share, floor):
    found, free = find_threshold(p, share, floor), find_threshold(p, share)
    chosen = found.choose(p)
    assert (p[chosen] > floor).all()
    assert chosen.sum() == round(found.calibration_share * len(p)) <= free.choose(p).sum()
    if (p[free.choose(p)] > floor).all() and free.value > floor:
        assert found == free


def test_gains_may_be_negative_and_losses_are_never_bought():
    gains = np.array([-0.2, -0.03, 0.1, 0.4, 1.7])
    assert find_threshold(gains, 0.4).choose(gains).tolist() == [False, False, False, True, True]
    for share in (0.8, 1.0):
        found = find_threshold(gains, share)
        assert found.choose(gains).tolist() == [False, False, True, True, True]
        assert found.calibration_share == 0.6
    assert not find_threshold(gains, 0.0).choose([9.0]).any()


def test_gains_of_zero_are_not_bought_either():
    """Half of these gain nothing: a budget of three quarters leaves them alone, as it does losses."""
    gains = np.repeat([0.0, 0.1], 50)
    calibration = Calibration.from_json(Calibration.from_scores(gains, {}, are_gains=True).to_json())
    assert calibration.threshold(0.75).choose(gains).tolist() == (gains > 0).tolist()
    assert find_threshold(gains, 0.75).choose(gains).sum() == 75  # as probabilities: the budget is spent


def test_a_saturated_policy_keeps_its_budget():
    found = find_threshold(np.ones(10), 0.3)
    assert found.choose(np.ones(1000)).mean() == pytest.approx(0.3)


@pytest.mark.parametrize("share, chosen", [(0.0, 0), (1.0, 4)])
def test_the_ends_of_the_share(share, chosen):
    assert find_threshold([0.1, 0.5, 0.0, 1.0], share).choose([0.0, 0.3, 1.0, 0.7]).sum() == chosen


@pytest.mark.parametrize("p, share", [([], 0.5), ([0.5, np.nan], 0.5), ([-np.inf], 0.5), ([0.5], 1.2)])
def test_a_threshold_of_bad_input(p, share):
    with pytest.raises(ValueError):
        find_threshold(p, share)
    with pytest.raises(ValueError, match="floor"):
        find_threshold([0.5], 0.5, floor=1.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 1))
def test_every_budget_has_the_threshold_of_all_scores(scores, share):
    calibration = Calibration.from_json(Calibration.from_scores(scores, {}).to_json())
    assert calibration.threshold(share) == find_threshold(scores, share)


@pytest.mark.parametrize("share", [0.0, 0.003, 0.25, 0.5, 0.9, 1.0])
def test_of_many_scores_the_curve_is_kept(share):
    scores = np.random.default_rng(0).beta(0.3, 0.5, 30_011)
    calibration = Calibration.from_scores(scores, {})
    assert len(calibration.scores) == MAX_SCORES
    assert calibration.num_prompts == 30_011
    assert calibration.threshold(share).choose(scores).mean() == pytest.approx(share, abs=1 / MAX_SCORES)


def test_a_saved_calibration_is_read_back(tmp_path):
    calibration = Calibration.from_scores([0.5, 0.1, 1 / 3], {"file": "a.jsonl"})
    save_calibration(calibration, tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json") == calibration
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "other"}, "no calibration"),
        ({"version": 2}, "of version 2"),
        ({"scores": [0.2, 0.1]}, "field scores"),
        ({"scores": [0.2, "a"]}, "field scores"),
        ({"scores": []}, "field scores"),
        ({"num_prompts": 0}, "num_prompts"),
        ({"floor": 2}, "field floor"),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path, change, message):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**json.loads(Calibration.from_scores([0.1, 0.2], {}).to_json()), **change}))
    with pytest.raises(IbpoError, match=message):
        load_calibration(path)
    path.write_text("{")
    with pytest.raises(IbpoError, match="not JSON"):
        load_calibration(path)
    with pytest.raises(IbpoError, match="cannot be read"):
        load_calibration(tmp_path / "none.json")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


def test_calibrate_from_a_column(tmp_path):
    file = write(tmp_path / "p.jsonl", [{"p_extended": i / 10} for i in range(10)])
    result = run(file, "--out", tmp_path / "c.json", "--budget", "extended=30%")
    assert result.exit_code == 0, result.output
    calibration = load_calibration(tmp_path / "c.json")
    assert calibration.threshold(0.3).value == pytest.approx(0.65)
    assert set(calibration.source) == {"file", "sha256", "ibpo", "column"}
    assert "0.65" in result.output


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.json", "p.csv.gz", "p.arrow"])
def test_calibrate_reads_the_tables_that_allocate_reads(tmp_path, name):
    frame = pytest.importorskip("pandas").DataFrame({"prompt": [f"q{i}" for i in range(10)], "p": np.arange(10) / 10})
    path = tmp_path / name
    if ".csv" in name or ".tsv" in name:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in name else ";")
    elif name == "p.arrow":
        pytest.importorskip("pyarrow")
        frame.to_feather(path)
    else:
        frame.to_json(path, orient="records", lines="jsonl" in name)
    result = run(path, "--columns", "score=p", "--out", tmp_path / "c.json", "--budget", "extended=30%")
    assert result.exit_code == 0, result.output
    assert load_calibration(tmp_path / "c.json").threshold(0.3).value == pytest.approx(0.65)


def test_calibrate_reads_numbers_as_allocate_does(tmp_path):
    """A table's decimals were no probability, percent were of one, and a column had to be spelt to the letter."""
    scores = [0.1, 0.25, 0.5, 0.75]
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"p_extended": list(map(Decimal, map(str, scores)))}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("\n".join(["prompt;P extended", *(f"x;{100 * score:g}%" for score in scores)]))
    for name in ("a.parquet", "a.csv"):
        done = run(tmp_path / name, "--budget", "extended=50%", "--out", tmp_path / "out.json")
        assert done.exit_code == 0, done.output
        assert (
            load_calibration(tmp_path / "out.json").threshold(0.5).value == find_threshold(np.array(scores), 0.5).value
        )


def test_a_cell_that_is_no_number_is_named(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,p_extended\na,0.5\nb,often\n")
    result = run(tmp_path / "p.csv", "--out", tmp_path / "c.json")
    assert result.exit_code == 2 and "p.csv, line 3, column 'p_extended': 'often' is not a probability" in result.output


def test_a_floor_is_kept_and_a_file_without_one_has_none(tmp_path):
    file = write(tmp_path / "p.jsonl", [{"p_extended": i / 10} for i in range(10)])
    result = run(file, "--out", tmp_path / "c.json", "--budget", "extended=0.9", "--floor", "0.5")
    assert result.exit_code == 0, result.output
    assert load_calibration(tmp_path / "c.json").threshold(0.9).calibration_share == pytest.approx(0.4)
    row = json.loads((tmp_path / "c.json").read_text())
    del row["floor"]
    assert Calibration.from_json(json.dumps(row)).threshold(0.9).calibration_share == pytest.approx(0.9)


def test_a_policy_is_asked_with_the_prompt_of_its_training(tmp_path):
    """Template, instructions, template options and system message of the run whose folder the policy lies in."""
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    from ibpo.commands.calibrate import _messages, _token_ids
    from ibpo.evaluation import asked_by

    tokenizer = AutoTokenizer.from_pretrained(model_path("thinking"))
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>"
        "{% if open is defined %}<think>{% endif %}{% endif %}"
    )
    groups = '[[response_group]]\nname = "a"\nprefix = "Answer:"\ninstruction = "Begin with Answer:."\n'
    (tmp_path / "model").mkdir()
    shown = '[[data.examples]]\nproblem = "1+1="\nreply = "Answer: 2"\n'
    (tmp_path / "config.toml").write_text(f'[data]\nsystem = "Be brief."\n{shown}{groups}')
    found, options, before = asked_by(str(tmp_path / "model"))
    assert ([group.name for group in found], options) == (["a"], {})
    asked = _messages("1+2=", "line 1", found, before)
    assert [m["role"] for m in asked] == ["system", "user", "assistant", "user"]
    assert asked[-1]["content"] == "Begin with Answer:.\n\n1+2="
    assert _messages(asked, "line 1", found, before) == asked  # not twice
    assert _messages(asked[1:], "line 1", found, before[1:]) == asked[1:]
    prompts = []
    tokenizer_of = lambda text, **_: prompts.append(text) or {"input_ids": [1]}  # noqa: E731
    tokenizer_of.chat_template, tokenizer_of.apply_chat_template = "x", tokenizer.apply_chat_template
    _token_ids(tokenizer_of, asked, "line 1", "Answer:", options)
    turns = "<user>1+1=<assistant>Answer: 2<user>Begin with Answer:.\n\n1+2=<assistant>"
    assert prompts == [f"<system>Be brief.{turns}"]
    with pytest.raises(IbpoError, match="the chat template writes it itself"):
        _token_ids(tokenizer_of, asked, "line 1", "<think>", {"open": True})
    assert asked_by(str(tmp_path / "other" / "model")) == ([], {}, [])


def a_run(folder):
    """What `ibpo train` leaves of a policy: its model, and how it was asked."""
    shutil.copytree(model_path("thinking"), folder / "model")
    groups = "".join(
        f'[[response_group]]\nname = "{name}"\nprefix = "{prefix}"\nanswer = "after:<answer>"\n'
        for name, prefix in (("standard", "<answer>"), ("étendu", "<think>"))
    )
    rest = "[train]\nseed = 0\nmax_completion_length = 42\n[trl]\ntemperature = 0.7\n"
    (folder / "config.toml").write_text(f"[budget] # q+\nextended = 0.5\n{rest}{groups}", encoding="utf-8")
    return folder / "model"


def test_a_policy_itself_is_moved_to_a_budget(tmp_path):
    pytest.importorskip("torch")
    from ibpo.evaluation import asked_by, trained_policy
    from ibpo.responses import encode_groups
    from ibpo.rollouts import encode_prompt, load_policy
    from ibpo.tasks import digit_sums, distinct
    from ibpo.training import read_states

    model = a_run(tmp_path / "run")
    prompts = [problem.prompt for problem in distinct(digit_sums, "train", 200, seed=3)]
    file = write(tmp_path / "p.jsonl", [{"prompt": prompt} for prompt in prompts])
    once, again = (run(file, "--model", model, "--out", tmp_path / name, "--budget", "étendu=30%") for name in "ab")
    assert once.exit_code == 0, once.output
    moved = tmp_path / "a" / "model"
    assert again.exit_code == 0  # and the same
    assert (moved / "model.safetensors").read_bytes() == (tmp_path / "b/model/model.safetensors").read_bytes()
    groups = asked_by(str(moved))[0]
    assert [group.name for group in groups] == ["standard", "étendu"]
    recipe = tomllib.loads((tmp_path / "a" / "config.toml").read_text(encoding="utf-8"))
    assert recipe["budget"] == {"étendu": 0.3} and recipe["trl"] == {"temperature": 0.7}
    assert trained_policy(str(moved)) == {"group": "étendu", "budget": 0.3, "steps": [], "run": str(tmp_path / "a")}
    # What it says of its own choice, read again from the disk, at the temperature at which the run was sampled.
    policy, tokenizer = load_policy(str(moved))
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    share = read_states(policy, tokenizer, ids, encode_groups(groups, tokenizer), 0.7).shares().mean(0)
    told = json.loads((tmp_path / "a" / "moved.json").read_text())
    assert share[1] == pytest.approx(0.3, abs=0.005) and told["shares"]["étendu"] == pytest.approx(share[1], abs=1e-3)


def test_a_folder_for_a_policy_is_refused_before_any_work(tmp_path):
    pytest.importorskip("torch")
    model = a_run(tmp_path / "run")
    file = write(tmp_path / "p.jsonl", [{"prompt": "a +1 b +2 ="}])
    new = tmp_path / "runs" / "at-0.3"
    for more, said in (
        (["--budget", "étendu=30%", "--out", tmp_path / "run"], "holds something already"),
        (["--budget", "thinking=30%"], "thinking"),
        (["--budget", "tokens=300"], "largest share of one of its response groups"),
        ([], "one policy keeps one --budget, 0 are given"),
        (["--budget", "étendu=30%", "--prefix", "<think>"], "leave --prefix out"),
        (["--model", model_path("thinking"), "--budget", "étendu=30%"], "no run beside it"),
    ):
        refused = run(file, "--model", model, "--out", new, *more)
        assert refused.exit_code == 2 and said in refused.stderr, refused.output
    assert not new.exists()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"model", "config.toml"}


def test_a_policy_without_a_chat_template_is_asked_as_in_training(tmp_path):
    """Its run's system prompt and instructions were left out."""
    import shutil

    from ibpo.commands.calibrate import _asked
    from ibpo.demo import model_path
    from ibpo.evaluation import asked_by
    from ibpo.responses import offer
    from ibpo.rollouts import encode_prompt

    shutil.copytree(model_path("thinking"), tmp_path / "model")
    group = '[[response_group]]\nname = "{}"\nprefix = "{}"\ninstruction = "{}"\n'
    groups = group.format("standard", "<answer>", "d +6 b +6 =") + group.format("extended", "<think>", "b +4 =")
    (tmp_path / "config.toml").write_text(f'[data]\nsystem = "c +1 n +0 ="\n{groups}')
    _, tokenizer, ids = _asked(str(tmp_path / "model"), ["a +6 b +6 ="], ["row 1"], "<think>")
    known, _, before = asked_by(str(tmp_path / "model"))
    trained = offer(known, [*before, {"role": "user", "content": "a +6 b +6 ="}], chat=False)
    assert ids == [list(encode_prompt(tokenizer, trained))]


def test_calibrate_from_a_policy(tmp_path):
    pytest.importorskip("torch")
    rows = [{"prompt": text} for text in ("1+2=", "3+4+5+6+7+8=", "9+9+9+9+9+9+9=")]
    file = write(tmp_path / "p.jsonl", rows)
    model = model_path("thinking")
    result = run(file, "--model", model, "--prefix", "<think>", "--out", tmp_path / "c.json")
    assert result.exit_code == 0, result.output
    found = load_calibration(tmp_path / "c.json")
    assert found.num_prompts == 3
    assert found.source["model"] == model.name
    # The same numbers, one prompt at a time, from transformers alone.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    opening = tokenizer("<think>", add_special_tokens=False)["input_ids"][0]
    alone = []
    for row in rows:
        ids = torch.tensor([tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            alone.append(torch.softmax(policy(ids).logits[0, -1].float(), -1)[opening].item())
    assert list(found.scores) == pytest.approx(sorted(alone), abs=1e-5)


@pytest.mark.parametrize(
    "rows, arguments, message",
    [
        ([{"p": 0.5}], [], "line 1: no value in column 'p_extended'; --columns score=... names one of 'p'"),
        ([{"p_extended": 0.5}, {"p_extended": 1.5}], [], "line 2, column 'p_extended': 1.5 is not a probability"),
        ([{"p_extended": True}], [], "True is not a probability"),
        ([{"gain": True}], ["--columns", "score=gain"], "True is not a gain; it must be a finite number"),
        ([], [], "no prompts"),
        ([{"prompt": "a"}], ["--model", "x"], "--model: needs --prefix"),
    ],
)
def test_bad_input_is_one_line(tmp_path, rows, arguments, message):
    result = run(write(tmp_path / "p.jsonl", rows), "--out", tmp_path / "c.json", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert result.stderr.startswith("error: ") and result.stderr.partition("try: ")[0].count("\n") == 1
    assert not (tmp_path / "c.json").exists()


def test_a_score_of_another_name_comes_with_the_command_to_paste(tmp_path):
    """Also inside of structs, and of cells that hold JSON, which other commands read and this one did not."""
    rows = [{"id": n, "text": f"{n}?", "gains": {"prob long": n / 5}} for n in (1, 2)]
    cells = tmp_path / "p.csv"
    cells.write_text("id,text,gains\n" + "".join(f'{n},{n}?,"{{""prob long"": {n / 5}}}"\n' for n in (1, 2)))
    for path in (write(tmp_path / "p.jsonl", rows), cells):
        result = run(path, "--out", tmp_path / "c.json", "--columns", "score=gains.extended")
        assert result.exit_code == 2 and "names one of 'prob long'" in result.stderr
        args = shlex.split(result.stderr.rpartition("try: ibpo calibrate ")[2])
        assert args[-2:] == ["--columns", "score=gains.prob long"]
        assert run(*args).exit_code == 0 and load_calibration(tmp_path / "c.json").scores == (0.2, 0.4)


def test_one_prompt_is_chosen_by_its_number_and_a_share_is_a_number():
    assert find_threshold([0.1, 0.8, 0.3, 0.6], share=0.5).choose(0.9).tolist() == [True]
    with pytest.raises(IbpoError, match="the share is '30%'; it must be a number"):
        find_threshold([0.1, 0.8], share="30%")  # pyright: ignore[reportArgumentType]


def test_a_threshold_says_of_how_many_prompts_it_is():
    """Of 10,000 it said 2,001: the scores that are kept."""
    calibration = Calibration.from_scores(np.random.default_rng(0).random(10_000), {})
    assert calibration.threshold(0.3).num_prompts == 10_000


def test_a_probability_above_one_is_named():
    with pytest.raises(IbpoError, match=r"scores\[1\] is 1.5; a probability is in .* are_gains=True"):
        Calibration.from_scores([0.5, 1.5], {})
    assert Calibration.from_scores([0.5, 1.5], {}, are_gains=True).scores == (0.5, 1.5)
