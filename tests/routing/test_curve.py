"""APGR, CPT(50) and AIQ by hand, the verdict, and what is written where a router is no better than a mix."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ibpo.commands.options import open_router
from ibpo.data import Log, LogColumns
from ibpo.errors import IbpoError
from ibpo.routing import RoutedLog, read_routed_log
from ibpo.routing.curve import judge_curve
from ibpo.routing.encoder import open_encoder
from ibpo.routing.evaluate import verdict
from ibpo.routing.fit import as_mix, choose_layers, fit_router
from ibpo.routing.router import Scores, load_router
from tests.routing.test_router import log_rows, run, table_of, write

pytest.importorskip("sklearn")


def table(reward, cost):
    size = len(reward)
    return RoutedLog(
        problems=[f"p{i}" for i in range(size)],
        groups=("weak", "strong"),
        reward=np.array(reward),
        cost=np.array(cost),
        count=np.ones((size, 2)),
        prompts=[""] * size,
        numbers={},
        columns={},
        left_out=0,
        log=cast(Log, None),
    )


def test_the_figures_of_the_literature_by_hand():
    # Ten problems: the strong model is needed for the last five, and costs 5 where the weak one costs 1.
    reward = [[1.0, 1.0]] * 5 + [[0.0, 1.0]] * 5
    log: Any = table(reward, [[1.0, 5.0]] * 10)
    knows = np.array([[0.0, gain] for gain in [0.0] * 5 + [1.0] * 5])
    found = judge_curve(log, Scores(knows, log.cost), draws=20)
    # Gap closed at 0, 10, ... 50 % of the calls: 0, .2, ... 1, then 1: the area is .25 + .5.
    assert found["apgr"] == pytest.approx(0.75)
    assert found["cpt_50"] == pytest.approx(0.3)  # three of the five
    # The hull: .5 at cost 1, 1 from cost 3 on; the constant policies: the line from .5 at 1 to 1 at 5.
    assert found["aiq"] == pytest.approx(0.875, abs=1e-3)
    assert found["aiq_of_mix"] == pytest.approx(0.75, abs=1e-3)
    assert found["quality_at_cost"] == pytest.approx([0.75, 1.0, 1.0])
    assert found["apgr_interval"][0] <= 0.75 <= found["apgr_interval"][1]
    wrong = judge_curve(log, Scores(knows[::-1], log.cost), draws=20)
    assert wrong["apgr"] < 0.5 and wrong["aiq"] == pytest.approx(0.75, abs=1e-3)
    blind = [
        judge_curve(log, Scores(np.stack([np.zeros(10), np.random.default_rng(s).random(10)], 1), log.cost), draws=2)
        for s in range(300)
    ]
    assert np.mean([row["apgr"] for row in blind]) == pytest.approx(0.5, abs=0.02)
    level: Any = table([[1.0, 1.0]] * 10, log.cost)
    assert judge_curve(level, Scores(knows, log.cost), draws=2)["apgr"] is None


def test_the_verdict_says_what_the_intervals_say():
    def rows(*triples):
        return [
            {"budget": "b=1", "gain_over_mix": gain, "gain_over_mix_interval": [low, high]}
            for low, gain, high in triples
        ]

    better, said = verdict(rows((-0.05, -0.022, -0.001)))
    assert not better and "the mix is written instead" in said and "-0.022 [-0.050, -0.001]" in said
    assert verdict(rows((0.0, 0.0, 0.0)))[0] is False
    better, said = verdict(rows((0.01, 0.02, 0.03), (-0.01, 0.02, 0.03)))
    assert better and "for sure at 1 of 2 budgets" in said
    better, said = verdict(rows((-0.01, 0.02, 0.03)))
    assert better and "not for sure" in said


def test_a_mix_predicts_the_means_of_the_log(tmp_path):
    log = table_of(tmp_path)
    gain, cost = as_mix(fit_router(log)).scores([*log.prompts[:3], "something else"])
    assert gain[:, 1] == pytest.approx([(log.reward[:, 1] - log.reward[:, 0]).mean()] * 4)
    assert cost == pytest.approx(np.tile(log.cost.mean(axis=0), (4, 1)))


@pytest.mark.parametrize("informative", [True, False])
def test_fit_writes_the_mix_where_the_router_is_no_better(tmp_path, informative):
    rows = log_rows(60)
    if not informative:  # the long answers are always worse: nothing is to be bought with any budget
        rows = [{**row, "reward": int(row["group"] == "short")} for row in rows]
    out = tmp_path / "router.json"
    done = run("route", "fit", write(tmp_path / "log.jsonl", rows), "--out", out, "--draws", 20)
    assert done.exit_code == 0, done.output
    router = load_router(out)
    assert router.report["is_mix"] is not informative
    assert f"verdict: {'better' if informative else 'no better'} than a random mix" in done.output
    gain = router.scores(["eggs: what is 1 + 2?", "eggs: what is 1 + 2 + 3 + 4 + 5 + 6 + 7?"]).gain[:, 1]
    assert (gain[1] > gain[0] + 0.2) if informative else gain.tolist() == [-1.0, -1.0]


FAMILIES = {
    "Bert": {},
    "MPNet": {},
    "DistilBert": {"dim": 16, "hidden_dim": 16, "n_heads": 2},
    "ModernBert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}


def tiny_encoder(folder: Path, seed: int, family: str = "Bert", num_layers: int = 1) -> Path:
    """An encoder of 16 dimensions with random weights, saved as sentence-transformers save theirs."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "+", "eggs", ":", *map(str, range(10))]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, **FAMILIES[family]}
    depth = {"n_layers" if family == "DistilBert" else "num_hidden_layers": num_layers}
    config = getattr(transformers, f"{family}Config")(vocab_size=len(words), pad_token_id=0, **sizes, **depth)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    return folder


def test_an_encoder_in_the_process_is_fitted_judged_and_asked_again(tmp_path, monkeypatch):
    folder, other = tiny_encoder(tmp_path / "tiny", 0), tiny_encoder(tmp_path / "other", 1)
    encoder = open_encoder(folder)
    texts = ["what is 1 + 2", "eggs: what is 1 + 2 + 3", "eggs"]
    together = encoder.embed(texts)
    assert together.shape == (3, 16) and np.linalg.norm(together, axis=1) == pytest.approx([1.0] * 3)
    for text, row in zip(texts, together, strict=True):  # padding says nothing
        assert encoder.embed([text])[0] == pytest.approx(row, abs=0.02 if encoder.bfloat16 else 1e-5)
    with monkeypatch.context() as patch:
        patch.setattr("ibpo.routing.encoder._multiplies_bfloat16", lambda: False)
        single = open_encoder(folder)
    exact = single.embed(texts)
    assert (exact * together).sum(axis=1) == pytest.approx([1.0] * 3, abs=1e-3)
    assert single.embed(texts[:1])[0] == pytest.approx(exact[0], abs=1e-5)
    assert encoder.embed([]).shape[0] == 0
    log, out = write(tmp_path / "log.jsonl", log_rows(40)), tmp_path / "router.json"
    done = run("route", "fit", log, "--embed", folder, "--out", out, "--draws", 20)
    assert done.exit_code == 0, done.output
    assert load_router(out).embedding == {"model": "tiny", "sha256": encoder.sha256}
    for layers, cut in (("auto", 0), ("0", 0), ("1", 1)):  # nothing is to be known from any of them
        short = tmp_path / f"{layers}.json"
        done = run("route", "fit", log, "--embed", f"folder={folder},layers={layers}", "--out", short, "--draws", 20)
        assert done.exit_code == 0, done.output
        assert ("0 of the 1 layers of tiny predict as well" in done.stderr) is (layers == "auto")
        assert load_router(short).embedding == {"model": "tiny", "sha256": encoder.sha256, "layers": str(cut)}
        found = open_router(short, str(folder)).embed
        assert found is not None and np.array_equal(found(texts), encoder.cut(cut).embed(texts))
    for wrong, said in (
        (f"folder={folder},layers=2", "cannot be cut to 2 layers; it has 1"),
        (f"folder={folder},layers=few", "give one, or layers=auto"),
        (f"folder={folder},model=m", "and no model"),
        ("url=http://127.0.0.1:9/v1,model=m,layers=auto", "folder=DIR,layers=auto"),
    ):
        assert said in run("route", "fit", log, "--embed", wrong, "--out", tmp_path / "no.json").output
    prompts, scored = write(tmp_path / "p.jsonl", [{"prompt": text} for text in texts]), tmp_path / "s.jsonl"
    assert run("route", "score", out, prompts, "--embed", folder, "--out", scored).exit_code == 0
    assert "give its folder" in run("route", "score", out, prompts, "--out", scored).output
    assert "is not the encoder" in run("route", "score", out, prompts, "--embed", other, "--out", scored).output
    with pytest.raises(IbpoError, match=r"no folder with a config\.json"):
        open_encoder(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_encoder_is_the_first_layers_of_the_whole(tmp_path, monkeypatch, family):
    monkeypatch.setattr("ibpo.routing.encoder._multiplies_bfloat16", lambda: False)
    encoder = open_encoder(tiny_encoder(tmp_path / "tiny", 0, family, num_layers=3))
    texts = ["what is 1 + 2", "eggs"]
    whole = encoder.embed(texts)
    assert encoder.num_layers == 3 and np.array_equal(encoder.cut(3).embed(texts), whole)
    for depth in (0, 1, 2):
        cut = encoder.cut(depth)
        assert cut.num_layers == depth
        states = []
        for text in texts:
            tokens = encoder.tokenizer([text], return_tensors="pt")
            state = encoder.model(**tokens, output_hidden_states=True).hidden_states[depth]
            norm = encoder.model.final_norm if family == "ModernBert" else (lambda x: x)
            vector = norm(state)[0].mean(dim=0)
            states.append((vector / vector.norm()).detach().double().numpy())
        assert cut.embed(texts) == pytest.approx(np.array(states), abs=1e-5)
    weights = {id(some) for some in encoder.model.parameters()}
    assert weights >= {id(some) for some in encoder.cut(2).model.parameters()}  # shared, not copied
    assert encoder.num_layers == 3 and np.array_equal(encoder.embed(texts), whole)  # and the whole stays whole
    with pytest.raises(IbpoError, match="cannot be cut to 4 layers; it has 3"):
        encoder.cut(4)


@dataclass
class Layered:
    """An encoder of five layers, of which some know how hard a prompt is."""

    hard: dict[str, float]
    know: dict[int, float]
    num_layers: int = 5
    depth: int = 5

    def cut(self, num_layers):
        return replace(self, depth=num_layers)

    def embed(self, prompts):
        noise = np.random.default_rng(self.depth).standard_normal((len(prompts), 6))
        noise[:, 0] += self.know.get(self.depth, 0.0) * np.array([self.hard[text] for text in prompts])
        return noise


@pytest.mark.parametrize(
    ("know", "chosen"), [({}, 0), ({5: 3.0}, 5), ({3: 3.0, 4: 3.0, 5: 1.0}, 3), ({1: 0.2, 2: 3.0, 5: 3.0}, 2)]
)
def test_as_few_layers_are_looked_at_as_know_as_much(tmp_path, know, chosen):
    draw = np.random.default_rng(0)
    hard = {f"problem {i:04d}": float(x) for i, x in enumerate(draw.standard_normal(300))}
    rows = [
        {
            "problem_id": text,
            "prompt": text,
            "response_group": group,
            "reward": float(draw.random() < (0.5 if group == "short" else 0.5 + 0.4 * np.tanh(level))),
            "tokens": 10 if group == "short" else 50,
        }
        for text, level in hard.items()
        for group in ("short", "long")
        for _ in range(4)
    ]
    log = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns())
    assert choose_layers(log, cast(Any, Layered(hard, know))) == chosen


def test_problems_of_equal_scores_are_a_blind_draw_in_whatever_order_they_stand(tmp_path):
    """Hard problems first, or last: what told nothing had an APGR of .75 or .25, outside its own interval."""
    for hard_first in (True, False):
        hard = (np.arange(40) < 20) == hard_first
        rows = [
            {"problem": f"p{p:03}", "response_group": name, "tokens": n, "prompt": "the same",
             "reward": float(name == "large" or not hard[p])}
            for p in range(40)
            for name, n in (("small", 1), ("large", 10))
        ]  # fmt: skip
        scores = Scores(np.tile([0.0, 0.5], (40, 1)), np.tile([1.0, 10.0], (40, 1)))
        table = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns(cost="tokens"))
        found = judge_curve(table, scores, draws=100)
        assert found["apgr"] == pytest.approx(0.5) and found["cpt_50"] == 0.5
        assert found["apgr_interval"][0] <= found["apgr"] + 1e-9 and found["apgr"] - 1e-9 <= found["apgr_interval"][1]


@pytest.mark.parametrize("size", range(2, 36))
def test_a_blind_draw_has_a_half_whatever_the_number_of_problems(size):
    """.49 of 5 problems: a tenth of them was rounded to none, nine tenths to four."""
    log: Any = table([[0.0, 1.0]] * size, [[1.0, 5.0]] * size)
    assert judge_curve(log, Scores(np.zeros((size, 2)), log.cost), draws=2)["apgr"] == pytest.approx(0.5, abs=1e-12)


def test_half_of_the_gap_is_half_whatever_rounding_says():
    """0/1 rewards of 29 and 31 problems: .72 of the calls instead of .07, and no such share at all."""
    rng = np.random.default_rng(0)
    for size in rng.integers(2, 60, 300).tolist():
        weak, strong = rng.integers(0, 2, (2, size))
        order = np.argsort(-rng.permutation(size))
        gain = np.empty(size)
        gain[order] = np.arange(size)[::-1]
        closed = [0, *np.cumsum(strong[order] - weak[order]).tolist()]
        log: Any = table(np.stack([weak, strong], axis=1).astype(float), [[1.0, 5.0]] * size)
        found = judge_curve(log, Scores(np.stack([np.zeros(size), gain], axis=1), log.cost), draws=2)
        if closed[-1] <= 0:
            assert found["apgr"] is None and found["cpt_50"] is None
            continue
        assert found["cpt_50"] == next(i for i, sum_ in enumerate(closed) if 2 * sum_ >= closed[-1]) / size
    # Equal means, added up in another order: no gap.
    log = table([[0.1, 0.3], [0.2, 0.1], [0.3, 0.2]], [[1.0, 5.0]] * 3)
    assert judge_curve(log, Scores(np.zeros((3, 2)), log.cost), draws=2)["apgr"] is None
