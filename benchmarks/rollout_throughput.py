"""Rollouts by `ibpo eval` against vLLM's own benchmark client, on one server, the same prompts, in turn.

    python -m benchmarks.rollout_throughput --vllm VLLM_ENV/bin/vllm --base-url http://127.0.0.1:8123/v1 \
        --model qwen2.5-coder-1.5b --tokenizer models/qwen --data gsm8k/test.jsonl --num-problems 80 --rounds 2

`vllm bench serve` sends the prompts as texts and throws the responses away; ours sends token ids, each request with a
seed of its own, takes them through `ibpo.evaluation.sampling.sample_ways`, and stores each as it comes. Both keep as
many requests in flight; the responses' lengths differ by chance, so what is compared is tokens a second. A round of
ours goes before and is not counted, so that both find the prompts in the server's prefix cache.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gsm8k_choice import RECIPE
from ibpo.commands.eval_setup import served_policy, ways_of
from ibpo.config import read_recipe
from ibpo.endpoint import Endpoint
from ibpo.evaluation.sampling import Way, sample_ways
from ibpo.rollouts import PromptWriter, RolloutStore
from ibpo.tasks import load_given

TEMPERATURE = 0.7


def ours(given: Any, problems: list[Any], ways: list[Way], folder: Path, seed: int) -> tuple[int, float]:
    """Tokens and seconds of `ibpo eval`'s sampling."""
    endpoint = Endpoint(
        base_url=given.base_url, model=given.model, num_concurrent=given.num_concurrent, timeout_seconds=1800.0
    )
    policy = served_policy(
        endpoint,
        max_tokens=given.max_tokens,
        temperature=TEMPERATURE,
        seed=seed,
        top_p=None,
        force=True,
        tokenizer=str(given.tokenizer),
    )
    store = RolloutStore(folder / f"ours-{seed}.jsonl")
    began = time.perf_counter()
    sample_ways(ways, problems, 1, policy.sampler_for, store)
    seconds = time.perf_counter() - began
    # A forced opening is the prompt's to the server.
    prefixes = {way.configuration: way.response_groups[0].prefix for way in ways}
    forced = {name: len(policy.tokenizer(text)["input_ids"]) for name, text in prefixes.items()}
    return sum(row["num_completion_tokens"] - forced[row["response_group"]] for row in store.rows()), seconds


def own(given: Any, prompts: Path, num_prompts: int) -> tuple[int, float]:
    """Tokens and seconds of `vllm bench serve`, as it reports them."""
    command = [given.vllm, "bench", "serve", "--backend", "openai", "--base-url", given.base_url.removesuffix("/v1")]
    command += ["--model", given.model, "--tokenizer", str(given.tokenizer), "--dataset-name", "custom"]
    command += ["--dataset-path", str(prompts), "--num-prompts", str(num_prompts), "--skip-chat-template"]
    command += ["--custom-output-len", str(given.max_tokens), "--max-concurrency", str(given.num_concurrent)]
    command += ["--temperature", str(TEMPERATURE), "--disable-tqdm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"vllm bench serve failed: {result.stderr[-2000:]}")

    def figure(label: str) -> float:
        found = re.search(rf"{label}[^:]*:\s+([\d.]+)", result.stdout)
        assert found, result.stdout
        return float(found[1])

    assert figure("Successful requests") == num_prompts, result.stdout
    return int(figure("Total generated tokens")), figure("Benchmark duration")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--vllm", required=True)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num-problems", type=int, default=80)
    parser.add_argument("--num-concurrent", type=int, default=160)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    config = read_recipe(RECIPE, [f"data.path={given.data}"])
    problems = load_given(config.data)[1][: given.num_problems]
    ways = ways_of((), RECIPE, "gsm8k", chooses=False, force=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(given.tokenizer)
        lines = list[str]()
        for way in ways:
            writer = PromptWriter(tokenizer=tokenizer, response_groups=way.response_groups)
            for request in way.requests(problems, 1):
                prompt, forced, _ = writer.asked(request)
                lines.append(json.dumps({"prompt": tokenizer.decode([*prompt, *forced])}))
        prompts = folder / "prompts.jsonl"
        prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        ours(given, problems, ways, folder, 0)  # warms the prefix cache
        print(f"{len(lines)} requests, {given.num_concurrent} in flight\n\n| round | client | tokens | s | tokens/s |")
        print("|---|---|---|---|---|")
        speeds: dict[str, list[float]] = {"vLLM's own": [], "ours": []}
        for number in range(1, given.rounds + 1):
            for client in speeds:
                if client == "ours":
                    tokens, seconds = ours(given, problems, ways, folder, number)
                else:
                    tokens, seconds = own(given, prompts, len(lines))
                speeds[client].append(tokens / seconds)
                print(f"| {number} | {client} | {tokens} | {seconds:.1f} | {tokens / seconds:.1f} |", flush=True)
        ratios = [a / b for a, b in zip(speeds["ours"], speeds["vLLM's own"], strict=True)]
        print(f"\nours / vLLM's own: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")


if __name__ == "__main__":
    main()
