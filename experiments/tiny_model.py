"""The embedded experiments' language model: a Llama of about 0.36M parameters and a tokenizer of whole words.

Words outside the vocabulary are split into bytes, so any text can be encoded (not well: it was never trained on any).
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Splits at white space; one token per known word; bytes for anything else."""
    vocabulary = [PAD, EOS, *words, *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(vocabulary)}, merges=[], byte_fallback=True, ignore_merges=True
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=EOS, padding_side="left")


def build_model(tokenizer: PreTrainedTokenizerFast, *, hidden_size: int = 96, num_layers: int = 3) -> LlamaForCausalLM:
    """A freshly initialised model (global torch seed)."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=hidden_size * 8 // 3,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=hidden_size**-0.5,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]  # one number, the stubs say more
            pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
        )
    )
