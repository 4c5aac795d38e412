"""A small checkpoint of each kind that real models come in, with random weights, made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KINDS = ("plain", "bfloat16", "untied", "pad_is_eos", "several_eos", "bos", "hybrid", "busy", "sliding", "linear")
"""plain: tied head, ChatML; bos: a beginning-of-sequence token, no chat template; several_eos: ids that only
generation_config.json names; hybrid: a template that switches thinking; busy: a generation_config.json that sets
whatever shapes sampling; sliding: windows of attention; linear: states instead of keys and values in some layers."""

CHATML = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
HYBRID = CHATML.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|stop|>", "<|turn|>"]
BUSY = {
    "do_sample": True, "temperature": 0.05, "top_k": 1, "top_p": 0.01, "min_p": 0.9, "typical_p": 0.1,
    "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "return_dict_in_generate": True, "output_scores": True,
    "stop_strings": ["a", "e"], "bad_words_ids": [[70], [71]], "suppress_tokens": [72, 73], "forced_eos_token_id": 2,
    "begin_suppress_tokens": [74, 75], "exponential_decay_length_penalty": [1, 9.0], "min_new_tokens": 30,
    "max_length": 5, "num_return_sequences": 2, "guidance_scale": 3.0, "sequence_bias": [[[76], -9.0]],
    "renormalize_logits": True, "max_time": 0.001, "cache_implementation": "static", "use_cache": False,
    "watermarking_config": {"bias": 9.0, "context_width": 1}, "prompt_lookup_num_tokens": 3,
}  # fmt: skip
"""Every one of these would change what `generate` samples, or how it answers."""


def tokenizer_of(kind: str) -> Any:
    """Bytes, and `SPECIAL` tokens, which are ids 0 to 4."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if kind == "bos":
        made.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 1)])
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|bos|>" if kind == "bos" else None,
        eos_token="<|end|>",
        pad_token={"bos": None, "pad_is_eos": "<|end|>"}.get(kind, "<|pad|>"),
        additional_special_tokens=["<|stop|>", "<|turn|>"],
    )
    if kind != "bos":
        tokenizer.chat_template = HYBRID if kind == "hybrid" else CHATML
    return tokenizer


def make_checkpoint(kind: str, folder: Path) -> Path:
    """The checkpoint's folder, written by `save_pretrained`."""
    import json

    import torch
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3NextConfig

    tokenizer = tokenizer_of(kind)
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "tie_word_embeddings": kind != "untied",
        "initializer_range": 0.3,
    }
    if kind == "sliding":
        config = Gemma3TextConfig(**size, sliding_window=6, layer_types=["sliding_attention", "full_attention"])
    elif kind == "linear":
        config = Qwen3NextConfig(
            **size, layer_types=["linear_attention", "full_attention"], num_experts=0, decoder_sparse_step=9,
            linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
        )  # fmt: skip
    else:
        config = LlamaConfig(**size)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():  # or a random model would hardly ever end
        model.get_output_embeddings().weight[[3, 100] if kind == "several_eos" else [2]] *= 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    told = json.loads((folder / "generation_config.json").read_text())
    if kind == "several_eos":
        told["eos_token_id"] = [3, 100, 2]
    (folder / "generation_config.json").write_text(json.dumps(told | (BUSY if kind == "busy" else {})))
    return folder
