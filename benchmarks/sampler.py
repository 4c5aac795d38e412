"""Tokens per CPU second of `HFSampler` and of transformers' plain `generate`, interleaved, on one model.

    python benchmarks/sampler.py MODEL [--dtype float32|bfloat16] [--limits 32 256] [--runs 3]

Each run samples the same prompts, some 70 tokens long, 4 responses a prompt, 16 at once, at temperature 1; responses
end by themselves or at the limit. Printed: the median of each, their ratio, and the peak memory above the model's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig

from ibpo.rollouts import HFSampler, encode_prompt, load_policy, pad_left

SIBLINGS, AT_ONCE = 4, 16
THINGS = ("bread", "a river", "the moon", "a bicycle", "winter", "an island", "a violin", "glass",
          "a lighthouse", "rice", "a desert", "a bridge", "honey", "a volcano", "paper", "a harbour")  # fmt: skip


def prompts_of(tokenizer: Any, count: int) -> list[list[int]]:
    """Questions of a few sentences, by the chat template where there is one."""
    found = []
    for i in range(count):
        text = (
            f"Please tell me in one or two short sentences what {THINGS[i % len(THINGS)]} is, how people have used it, "
            "and what a child of six years should know about it; do not write more than thirty words."
        )
        chat = [{"role": "user", "content": text}]
        found.append(encode_prompt(tokenizer, chat if tokenizer.chat_template else text))
    return found


def plain_generate(model: Any, tokenizer: Any, prompts: list[list[int]], eos: list[int], limit: int) -> int:
    """Number of tokens that `generate` wrote, end-of-sequence tokens included."""
    written = 0
    for start in range(0, len(prompts), AT_ONCE):
        ids, mask = pad_left(prompts[start : start + AT_ONCE], tokenizer.pad_token_id)
        config = GenerationConfig(max_new_tokens=limit, do_sample=True, top_k=0, top_p=1.0, eos_token_id=eos,
                                  pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
        for row in out.tolist():
            written += next((n + 1 for n, token in enumerate(row) if token in eos), len(row))
    return written


def timed(work: Callable[[], int]) -> tuple[float, float, float]:
    """Tokens per CPU second, tokens, and megabytes by which the peak rose above what is in use now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = _memory("VmRSS")
    begun = time.process_time()
    tokens = work()
    return tokens / (time.process_time() - begun), tokens, (_memory("VmHWM") - before) / 1024


def _memory(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--limits", type=int, nargs="*", default=[32, 256])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--verbose", action="store_true", help="print every run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_policy(args.model, dtype=args.dtype)
    any_tokenizer: Any = tokenizer
    prompts = [ids for ids in prompts_of(any_tokenizer, args.prompts) for _ in range(SIBLINGS)]
    print(f"{args.dtype}, {len(prompts)} responses to prompts of {len(prompts[0])} tokens")
    HFSampler(model, tokenizer, max_completion_length=2, batch_size=AT_ONCE).sample(prompts, [[]] * len(prompts))
    for limit in args.limits:
        sampler = HFSampler(model, tokenizer, max_completion_length=limit, batch_size=AT_ONCE)

        def ours(sampler: HFSampler = sampler) -> int:
            return sum(map(len, sampler.sample(prompts, [[]] * len(prompts))))

        def theirs(limit: int = limit, eos: list[int] = sampler.eos_token_ids) -> int:
            return plain_generate(model, any_tokenizer, prompts, eos, limit)

        found: dict[str, list[tuple[float, float, float]]] = {"HFSampler": [], "generate": []}
        for run in range(args.runs):
            for name, work in (("HFSampler", ours), ("generate", theirs)):
                torch.manual_seed(run)
                found[name].append(timed(work))
                if args.verbose:
                    print(limit, name, *(f"{number:.1f}" for number in found[name][-1]), flush=True)
        rate = {name: statistics.median(r for r, _, _ in runs) for name, runs in found.items()}
        length = {name: statistics.mean(t for _, t, _ in runs) / len(prompts) for name, runs in found.items()}
        peak = {name: statistics.median(m for _, _, m in runs) for name, runs in found.items()}
        print(
            f"limit {limit}: HFSampler {rate['HFSampler']:.1f} tokens per CPU second ({length['HFSampler']:.0f} a "
            f"response, {peak['HFSampler']:.0f} MB), generate {rate['generate']:.1f} ({length['generate']:.0f}, "
            f"{peak['generate']:.0f} MB): {rate['HFSampler'] / rate['generate']:.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
