"""The models that come with the package: small, described, safe to load, and able to do both response groups."""

from __future__ import annotations

import json
import shutil
import zipfile
from itertools import islice
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from experiments.build import sample_texts
from ibpo.demo import EXPERIMENTS, experiment_named, model_path, models
from ibpo.errors import IbpoError
from ibpo.tasks import local_rows, stream

STAGES = ("cold_start", "pretrained")
ROOT = Path(__file__).parents[2]
EXPECTED = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}


def load(path: Path):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def test_both_stages_of_every_experiment_are_shipped_and_nothing_else():
    assert {path.name for path in (ROOT / "ibpo").rglob("*.tar.xz")} == {f"{name}.tar.xz" for name in EXPERIMENTS}
    assert {path.parts[-3:-1] for path in (ROOT / "experiments" / "models").rglob("config.json")} == {
        (name, "pretrained") for name in EXPERIMENTS
    }
    assert not list((ROOT / "ibpo").rglob("*.safetensors"))
    assert all(model_path(name, stage).is_dir() for name in EXPERIMENTS for stage in STAGES)
    with pytest.raises(IbpoError, match="no embedded model thinking/none; this installation holds thinking/cold_start"):
        model_path("thinking", "none")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_model_is_small_described_and_safe(name, stage):
    path = model_path(name, stage)
    files = list(path.rglob("*"))
    assert {file.name for file in files} == EXPECTED | TOKENIZER  # safetensors only: nothing that pickles, no code
    assert sum(file.stat().st_size for file in files) <= 3 * 2**20
    model, tokenizer = load(path)
    assert model.num_parameters() <= 1_000_000
    assert len(tokenizer) <= model.config.vocab_size
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "\n## What is designed into the data\n" in card
    assert f"{model.num_parameters():,} parameters" in card
    assert " ".join(experiment_named(name).designed_in.split()) in " ".join(card.split())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_cold_start_answers_in_both_response_groups(name):
    experiment = experiment_named(name)
    model, tokenizer = load(model_path(name, "cold_start"))
    problems = list(islice(stream(experiment.task, "train", 11), 50))
    torch.manual_seed(0)
    for group in experiment.response_groups:
        texts = sample_texts(model, tokenizer, problems, group.prefix, experiment.max_completion_length)
        assert all(group.matches(text) for text in texts)
        answered = sum(group.extract_answer(text) is not None for text in texts)
        assert answered >= 0.9 * len(problems), group.name


def test_the_wheel_has_at_most_three_megabytes(tmp_path):
    """Its files as a wheel compresses them; 25 kB are left for metadata and README."""
    with zipfile.ZipFile(tmp_path / "wheel.zip", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in (ROOT / "ibpo").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                wheel.write(path, path.relative_to(ROOT))
    assert (tmp_path / "wheel.zip").stat().st_size <= 3_000_000 - 25_000


def test_packing_a_model_rounds_its_weights_and_keeps_every_other_byte(tmp_path):
    folder = model_path("thinking", "pretrained")
    models.pack_model(folder, tmp_path / "packed.tar.xz")
    models.pack_model(folder, tmp_path / "again.tar.xz")
    models.unpack_model(tmp_path / "packed.tar.xz", tmp_path / "unpacked")
    models.unpack_model(tmp_path / "packed.tar.xz", tmp_path / "unpacked")  # another process was faster
    weights = "model.safetensors"
    before, after = (
        {p.name: p.read_bytes() for p in where.iterdir() if p.name != weights}
        for where in (folder, tmp_path / "unpacked")
    )
    assert before == after
    exact, rounded = (load_file(where / weights) for where in (folder, tmp_path / "unpacked"))
    assert exact.keys() == rounded.keys()
    for name, tensor in exact.items():
        torch.testing.assert_close(rounded[name], tensor, rtol=2**-16, atol=0)
    models.pack_model(tmp_path / "unpacked", tmp_path / "once_more.tar.xz")
    assert (tmp_path / "once_more.tar.xz").read_bytes() == (tmp_path / "packed.tar.xz").read_bytes()
    (tmp_path / "once_more.tar.xz").unlink()
    assert (tmp_path / "packed.tar.xz").read_bytes() == (tmp_path / "again.tar.xz").read_bytes()
    assert (tmp_path / "packed.tar.xz").stat().st_size < 0.65 * (folder / "model.safetensors").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.tar.xz", "packed.tar.xz", "unpacked"]


def test_a_model_is_unpacked_once_into_the_home_or_elsewhere_where_there_is_none(monkeypatch, tmp_path):
    archive = Path(models.__file__).parent / "thinking.tar.xz"
    unpack = models._unpacked.__wrapped__
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    first = unpack(archive)
    assert first.parent == tmp_path / ".cache" / "ibpo" and (first / "config.json").is_file()
    when = (first / "model.safetensors").stat().st_mtime_ns
    assert unpack(archive) == first and (first / "model.safetensors").stat().st_mtime_ns == when
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "file")
    elsewhere = unpack(archive)
    assert tmp_path not in elsewhere.parents
    assert (elsewhere / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_an_installed_package_has_the_cold_starts_alone_and_says_what_it_lacks(monkeypatch, tmp_path):
    from ibpo.demo import DemoSettings, check_settings, plan_jobs

    monkeypatch.setattr(models, "CHECKOUT", tmp_path)
    assert model_path("voting").is_dir() and models.pretrained_path("voting") is None
    with pytest.raises(IbpoError, match="no embedded model voting/pretrained; this installation holds thinking/"):
        model_path("voting", "pretrained")
    settings = {"experiments": ("thinking",), "budgets": (0.5,), "seeds": (0,), "num_problems": 8, "num_steps": 1}
    here = DemoSettings(**settings, num_calibration=8, from_scratch=False)
    jobs = plan_jobs(tmp_path / "run", here)
    assert "build" not in {job.name for job in jobs} and {job.pretrained for job in jobs} == {""}
    with pytest.raises(
        IbpoError, match=r"--from-scratch needs experiments/build\.py, which an installed package does not have"
    ):
        check_settings(tmp_path / "run", DemoSettings(**settings, num_calibration=8, from_scratch=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("budget", "wanted"), [(0.25, 0.25), (0.75, 0.4), (0.0, 0.0)])
def test_the_trained_policy_is_moved_to_a_budget_no_further_than_it_pays(budget, wanted, tmp_path):
    """In the training, extended responses paid on 40 % of the prompts."""
    from ibpo.demo import FORCED, THINKING, TRAINED, DemoJob, run_job
    from ibpo.demo.page import had_slack
    from ibpo.evaluation import read_table, write_choices

    def job(name, *budgets):
        return DemoJob(
            name=name, experiment="thinking", seed_dir=str(tmp_path), cold_start=str(model_path("thinking")),
            pretrained="", seed=0, num_problems=20, num_calibration=256, budgets=budgets,
        )  # fmt: skip

    moved, forced = job(TRAINED, budget), job(FORCED, budget)
    moved.files.parent.mkdir(parents=True)
    assert moved.is_ready() and not forced.is_ready()
    shutil.copytree(model_path("thinking"), moved.policy_dir / "model")  # as if it had been trained
    assert forced.is_ready() and not moved.is_done()
    moved.worth.write_text(json.dumps({"pays_to": 0.4}))
    run_job(moved)
    assert moved.is_done() and not forced.is_done()
    name = f"ibpo-{budget:g}"
    folder = moved.folder_of(name)
    [step] = json.loads((folder / "metrics.json").read_text())
    assert step["ibpo/spent/extended"] == pytest.approx(wanted)
    assert had_slack(folder) == (budget > 0.4)
    assert step["ibpo/share/extended"] == pytest.approx(wanted, abs=0.03)
    model, tokenizer = load(folder / "model")
    assert not model.config.tie_word_embeddings
    # What is written down of its choice is what the model that is written down does.
    again = tmp_path / "again.jsonl.gz"
    write_choices(again, model, tokenizer, moved.unseen_problems(), THINKING.response_groups[1])
    chance, expected = (
        [row["p_extended"] for _, row in local_rows(path)] for path in (moved.choices(name, "test"), again)
    )
    assert chance == pytest.approx(expected, abs=1e-4) and len(chance) == 20
    again.unlink()
    # Its forced responses are the trained policy's, under its name.
    run_job(forced)
    assert forced.is_done()
    table = read_table(moved.responses(name, "extended"))
    assert set(table.configuration) == {f"{name}, extended"}
    assert table.completion.tolist() == read_table(moved.forced(TRAINED, "extended")).completion.tolist()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix in (".gz", ".safetensors")}
    assert len(before) == 9
    run_job(moved)  # done once
    run_job(forced)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_of_a_policy_for_each_budget_is_not_gone_on_with(tmp_path):
    from ibpo.demo import DemoSettings, check_settings

    settings = {"experiments": ("thinking",), "budgets": (0.5,), "seeds": (0,), "num_problems": 8, "num_steps": 1}
    (tmp_path / "thinking" / "seed0" / "policies" / "ibpo-0.5").mkdir(parents=True)
    with pytest.raises(IbpoError, match=r"holds a run of an earlier version.* choose another --name"):
        check_settings(tmp_path, DemoSettings(**settings, num_calibration=8, from_scratch=False))
    (tmp_path / "thinking" / "seed0" / "policies" / "ibpo").mkdir()
    check_settings(tmp_path, DemoSettings(**settings, num_calibration=8, from_scratch=False))
