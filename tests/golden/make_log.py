"""The fixed log that the golden tests read: 80 problems, two response groups, four responses each; plain arithmetic."""

import json
import random
from pathlib import Path


def log_rows(num_problems: int = 80, num_responses: int = 4) -> list[dict]:
    """Rows whose gain from an extended response differs by level; the same on every machine and Python."""
    draw = random.Random(20261129)
    rows = []
    for p in range(num_problems):
        level = p % 4
        for group in ("standard", "extended"):
            right = (0.9, 0.55, 0.3, 0.05)[level] if group == "standard" else (0.92, 0.9, 0.75, 0.1)[level]
            for j in range(num_responses):
                length = 40 + 10 * level if group == "standard" else 300 + 150 * level
                answer = str(100 + p) if draw.random() < right else str(draw.randrange(9))
                rows.append(
                    {
                        "problem_id": f"p{p}",
                        "prompt": f"level {level}: question {p}?",
                        "level": str(level),
                        "domain": ("law", "sums")[p % 2],
                        "response_group": group,
                        "sample": j,
                        "answer": answer,
                        "reward": float(answer == str(100 + p)),
                        "tokens": int(length * (0.7 + 0.6 * draw.random())),
                        "finish_reason": "length" if draw.random() < 0.02 else "stop",
                    }
                )
    return rows


def write_log(path: Path) -> Path:
    """The log as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in log_rows()), encoding="utf-8")
    return path


def write_trace(path: Path, num_requests: int = 3000) -> Path:
    """A trace of requests: bursts, lengths with a heavy tail, gains."""
    draw = random.Random(7)
    now, lines = 0.0, []
    for i in range(num_requests):
        now += draw.expovariate(20.0 if (i // 300) % 2 else 5.0)
        tokens = int(20 + draw.paretovariate(1.8) * 60)
        lines.append(json.dumps({"t": round(now, 6), "output_tokens": tokens, "tenant": ("a", "b", "c")[i % 3]}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
