"""Route GSM8K's test problems between Mixtral-8x7B and GPT-4: APGR by five folds, beside blind and published routers.

    python benchmarks/routellm.py --data ../shared/data/routellm_gsm8k --embed-model DIR

RouteLLM's recorded answers (1,307 problems without its contaminated prompts): right or wrong of a weak and a strong
model. Every problem is scored by a router fitted on the other four fifths, with labels of these very problems, which
none of the published routers had; APGR as in `ibpo.routing.judge_curve`, 95 % intervals of a bootstrap over problems.
Rows: ridge on counts and hashed words (`ibpo route fit` as it comes), the same with an encoder's embeddings
(`--embed-model`, e.g. all-MiniLM-L6-v2), whole and cut to its first layers, as few as predict as well (`choose_layers`,
`ibpo route fit --embed folder=DIR,layers=auto`), the mean of the k nearest neighbours in the embedding, k by
leave-one-out (the field's null), and a blind draw. Last, CPU milliseconds of the router with each encoder, alone and in
batches of 32.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ibpo.data import LogColumns
from ibpo.routing import (
    Encoder,
    RoutedLog,
    Scores,
    choose_layers,
    fit_router,
    judge_curve,
    open_encoder,
    read_routed_log,
    score_unseen,
)
from ibpo.routing.neighbours import leave_one_out, mean_of_nearest, unit_rows

PUBLISHED = {"matrix factorisation": 0.567, "BERT": 0.532, "Llama-3-8B classifier": 0.623}
"""Read off the project's plot (lm-sys/RouteLLM 0b64fda); not fitted on GSM8K."""


def read(folder: Path, log: Path) -> RoutedLog:
    """The recorded answers as a log, a call to the strong model costing 1."""
    with open(folder / "contaminated_prompts.jsonl", encoding="utf-8") as file:
        known = {json.loads(line)["eval_prompt"] for line in file}
    csv.field_size_limit(sys.maxsize)
    with gzip.open(folder / "gsm8k_responses.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] not in known]
    weak, strong = (name for name in rows[0] if name != "prompt" and not name.endswith("_response"))
    with open(log, "w", encoding="utf-8") as file:
        for i, row in enumerate(rows):
            for cost, name in enumerate((weak, strong)):
                cell = {"problem_id": f"{i:05d}", "prompt": row["prompt"], "response_group": name}
                file.write(json.dumps({**cell, "reward": float(row[name] == "True"), "calls": cost}) + "\n")
    return read_routed_log(log, columns=LogColumns(cost="calls"))


def neighbours(table: RoutedLog, embedded: np.ndarray, folds: int = 5, seed: int = 0) -> Scores:
    """The mean gain of the nearest problems of the other folds, by the cosine of their embeddings."""
    size = len(table.problems)
    part, gain = np.random.default_rng(seed).permutation(size) % folds, np.zeros((size, 2))
    target = table.reward[:, 1:] - table.reward[:, :1]
    for fold in range(folds):
        learn, judge = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        unit = unit_rows(embedded[learn])
        num, _ = leave_one_out(unit, target[learn])
        gain[judge, 1:] = mean_of_nearest(unit, target[learn], num, embedded[judge])
    return Scores(gain, np.tile(table.cost.mean(axis=0), (size, 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/routellm_gsm8k"))
    parser.add_argument("--embed-model", type=Path, help="folder of a sentence encoder")
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = read(arguments.data, Path(folder) / "log.jsonl")
    size, weak, strong = len(table.problems), *table.reward.mean(axis=0)
    print(
        f"{size} problems; weak {weak:.4f}, strong {strong:.4f}\n\n| router | APGR | CPT(50) | AIQ |\n|---|---|---|---|"
    )

    def row(title: str, scores: Scores) -> None:
        found = judge_curve(table, scores, draws=arguments.draws)
        cells = [
            f"{found[name]:.3f} [{found[name + '_interval'][0]:.3f}, {found[name + '_interval'][1]:.3f}]"
            for name in ("apgr", "cpt_50", "aiq")
        ]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)

    blind = np.stack([np.zeros(size), np.random.default_rng(0).random(size)], axis=1)
    row("blind draw", Scores(blind, np.tile(table.cost.mean(axis=0), (size, 1))))
    encoders: list[tuple[Encoder, np.ndarray]] = []
    if arguments.embed_model is not None:
        whole = open_encoder(arguments.embed_model)
        cut = whole.cut(choose_layers(table, whole))
        encoders = [(one, one.embed(table.prompts)) for one in (whole, cut)]
        row("k nearest neighbours, k by leave-one-out", neighbours(table, encoders[0][1]))
        for one, embedded in encoders:
            title = f"ridge: counts, hashed words, embeddings of {one.num_layers} layers"
            row(title, score_unseen(table, embedded=embedded))
    row("ridge: counts, hashed words", score_unseen(table))
    for title, apgr in PUBLISHED.items():
        print(f"| published: {title} | {apgr:.3f} | | |")
    routers = [
        replace(fit_router(table, embedded=embedded, embedding={"model": ""}), embed=one.embed)
        for one, embedded in encoders
    ]
    # Medians of five rounds over 64 prompts, in turns; the one before makes what a new length of prompt needs once.
    took: dict[tuple[int, int], list[float]] = {(i, size): [] for i in range(len(routers)) for size in (1, 32)}
    for number in range(6):
        for (i, size), times in took.items():
            began = time.process_time()
            for start in range(0, 64, size):
                routers[i].scores(table.prompts[start : start + size])
            if number:
                times.append(1e3 * (time.process_time() - began) / 64)
    for i, (one, _) in enumerate(encoders):
        alone, batch = (statistics.median(took[i, size]) for size in (1, 32))
        print(f"\nCPU ms a prompt, {one.num_layers} layers: {alone:.1f} alone, {batch:.1f} in batches of 32")


if __name__ == "__main__":
    main()
