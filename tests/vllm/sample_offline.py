"""Run by the environment that has vLLM: `sample_offline.py MODEL REQUESTS` prints the offline engine's responses."""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """One line of JSON per request: its key, prompt and completion as token ids, and how it ended."""
    from transformers import AutoTokenizer

    from ibpo.rollouts.sampler import PromptWriter, Request
    from ibpo.rollouts.served import VLLMSampler, load_vllm
    from ibpo.types import Problem

    path, wanted = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    requests = [
        Request(problem=Problem(problem_id=row["id"], prompt=row["prompt"], answer=""), number=0, prefix=row["prefix"])
        for row in wanted
    ]
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = None
    llm, make_params = load_vllm(path, dtype="float32", max_model_len=512)
    sampler = VLLMSampler(llm, make_params, PromptWriter(tokenizer=tokenizer), max_tokens=64, temperature=0)
    for outcome in sampler.sample_requests(requests):
        if isinstance(outcome, Exception):
            raise outcome
        rollout = outcome.rollout
        row = {"id": rollout.problem_id, "prefix": outcome.request.prefix, "ids": rollout.completion_token_ids}
        print(json.dumps({**row, "completion": rollout.completion, "finish_reason": rollout.finish_reason}))


if __name__ == "__main__":
    main()
