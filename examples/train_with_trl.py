"""Train a small model under a budget: it may think about 30 % of the problems. A minute on two CPU cores.

    python examples/train_with_trl.py

The model comes with the package. It adds single digits, at once or step by step; a wrong answer at once is a guess.
To train a model of your own: its name as `model`, your rows, your reward function, and the prefixes that your model's
responses open with.
"""

import numpy as np
from datasets import Dataset
from transformers import PrinterCallback

from ibpo import IBPOConfig, IBPOTrainer, ResponseGroup
from ibpo.demo import model_path
from ibpo.tasks import digit_sums

BUDGET = 0.3
NUM_UPDATES = 40


def read_answer(completion: str) -> str | None:
    """The text after `<answer>`, or None."""
    return completion.partition("<answer>")[2].strip() or None


def correct(completions: list[str], gold: list[str], **_) -> list[float]:
    """A reward function as TRL calls it: 1 for a right answer, else 0."""
    return [float(read_answer(completion) == right) for completion, right in zip(completions, gold, strict=True)]


def draw_rows(num_rows: int, seed: int) -> list[dict[str, str]]:
    """Problems of 2 to 12 digits, some with an unknown digit: those are hopeless, and thinking about them is waste."""
    rng = np.random.default_rng(seed)
    levels = rng.choice(list(digit_sums.MIX), num_rows, p=list(digit_sums.MIX.values()))
    problems = [digit_sums.draw(str(level), rng) for level in levels]
    return [{"prompt": str(x.prompt), "gold": x.answer, "level": x.level or ""} for x in problems]


standard = ResponseGroup(name="standard", prefix="<answer>", extract_answer=read_answer)  # the standard one comes first
extended = ResponseGroup(name="extended", prefix="<think>", extract_answer=read_answer)

trainer = IBPOTrainer(
    model=str(model_path("thinking")),
    reward_funcs=correct,
    response_groups=[standard, extended],
    args=IBPOConfig(
        output_dir="runs/trl",
        budget={"extended": BUDGET},
        num_generations=2,
        per_device_train_batch_size=128,
        max_completion_length=42,
        max_steps=NUM_UPDATES,
        learning_rate=1e-3,
        logging_steps=5,
        disable_tqdm=True,
        bf16=False,
        use_cpu=True,
        report_to="none",
    ),
    train_dataset=Dataset.from_list(draw_rows(64 * NUM_UPDATES, seed=0)),
)
trainer.remove_callback(PrinterCallback)  # fifty metrics an update; they are in trainer.state.log_history
trainer.train()
last = trainer.state.log_history[-2]
for name in ("standard", "extended"):
    print(f"{name} responses: {last[f'ibpo/forced_reward/{name}']:.0%} are right")
print(f"extended on {last['ibpo/share/extended']:.0%} of the problems; the budget is {BUDGET:.0%}")
