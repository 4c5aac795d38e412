"""Memory of a training per GPU, by formula: python benchmarks/memory.py > the table of docs/results/scale.md.

Not measured on hardware. With N parameters, of which A are trained, in S shards, and per GPU b sequences of T tokens in
a forward pass, L layers of width h, k key and value channels, V words, in bytes:

    weights      4 N / S            float32 master weights (2 N / S frozen in bf16 under LoRA), and what a bf16 forward
                                    pass copies: 2 N whole, 2 x 2 N / L where sharded (two layers at a time)
    training     12 A / S           gradient 4, AdamW's two moments 8
    initial      4 N / S            the reference model, in the policy's own type: 2 N / S under LoRA
    activations  b T h (2 L + 34)   one checkpoint per layer, and one layer that is computed again (Korthikanti et al.
                                    2022, section 4, with an attention that keeps no T x T matrix)
    logits       24 b T V           the loss: bf16 logits, float32 log-probabilities, their gradient (10); the KL
                                    penalty, where a sequence has one: float32 too, and the reference model's (14)
    rollouts     2 c L k T B        transformers: keys and values of B sequences (`sampling_batch_size`) of c bytes,
                                    4 with float32 weights, 2 with bf16 (LoRA)
                 2 N + 4 L k T B    vLLM, colocated: bf16 weights, keys and values, whole on each GPU
                                    (vllm_tensor_parallel_size=1; else by so many); 0 on a server

Weights, training and initial policy are there all the time; activations and logits while training, rollouts while
sampling (TRL's sleep mode frees them). The larger of the two sums has to fit.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    name: str
    parameters: float
    layers: int
    width: int
    key_value: int
    """2 x number of key-value heads x head size / 2: channels of the keys, as many as of the values."""
    words: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    name: str
    shards: int
    sequences: int = 1
    tokens: int = 4096
    lora: float = 0.0
    """Share of parameters that adapters train; 0: all parameters."""
    sampler: str = "transformers"
    """Or `colocated` (vLLM on all GPUs of the training), or `server` (vLLM elsewhere)."""
    sampled: int = 32
    """Sequences that are decoded at once: `sampling_batch_size`, or what vLLM has room for."""


MODELS = (
    Model(name="Qwen2.5-1.5B", parameters=1.54e9, layers=28, width=1536, key_value=256, words=151_936),
    Model(name="Llama-3.1-8B", parameters=8.03e9, layers=32, width=4096, key_value=1024, words=128_256),
    Model(name="Llama-3.1-70B", parameters=70.6e9, layers=80, width=8192, key_value=1024, words=128_256),
)
SETUPS = (
    Setup(name="1 GPU, full", shards=1),
    Setup(name="1 GPU, LoRA", shards=1, lora=0.005),
    Setup(name="8 GPUs, sharded, vLLM colocated", shards=8, sampler="colocated"),
    Setup(name="32 GPUs, sharded, vLLM on a node of its own", shards=32, sampler="server"),
)
WHILE_TRAINING = ("activations", "logits")


def memory(model: Model, setup: Setup) -> dict[str, float]:
    """Bytes per GPU, by part.

    Example:
        >>> parts = memory(MODELS[0], SETUPS[0])
        >>> round(parts["training"] / GIB), round(parts["rollouts"] / GIB, 1)
        (17, 7.0)
    """
    n, s, sharded = model.parameters, setup.shards, setup.shards > 1
    trained = setup.lora * n if setup.lora else n
    width = 2.0 if setup.lora else 4.0  # bytes of a weight; under LoRA the frozen ones are in bf16
    weights = (width * n + (4.0 * trained if setup.lora else 0.0)) / s
    copied = 4.0 * n / model.layers if sharded else (0.0 if setup.lora else 2.0 * n)
    places = setup.sequences * setup.tokens
    channels = 2.0 * model.layers * model.key_value * setup.tokens * setup.sampled
    rollouts = {"transformers": width * channels, "colocated": 2.0 * n + 2.0 * channels, "server": 0.0}
    return {
        "weights": weights + copied,
        "training": 12.0 * trained / s,
        "initial": width * n / s,
        "activations": places * model.width * (2.0 * model.layers + 34.0),
        "logits": 24.0 * places * model.words,
        "rollouts": rollouts[setup.sampler],
    }


def peaks(parts: dict[str, float]) -> tuple[float, float]:
    """Bytes while training and while sampling."""
    held = sum(parts[name] for name in ("weights", "training", "initial"))
    return held + sum(parts[name] for name in WHILE_TRAINING), held + parts["rollouts"]


def table() -> str:
    head = ["model", "set-up", "weights", "training", "initial policy", "activations", "logits", "rollouts"]
    head += ["while training", "while sampling", "80 GB"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for model in MODELS:
        for setup in SETUPS:
            parts = memory(model, setup)
            both = peaks(parts)
            cells = [f"{value / GIB:.1f}" for value in (*parts.values(), *both)]
            fits = "yes" if max(both) < 0.9 * 80e9 else "no"
            lines.append(f"| {' | '.join([model.name, setup.name, *cells, fits])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
