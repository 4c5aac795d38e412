#!/bin/bash
# transformers 5.23.0, tokenizers as it requires; Python 3.11, CPU, no model weights, no network but the package index.
#
# Behaviour: a tokenizer of one's own (`PreTrainedTokenizerFast(tokenizer_object=...)`) is saved beside a configuration whose
# `model_type` is `qwen2`. `AutoTokenizer.from_pretrained` of that folder then builds a `Qwen2Tokenizer` from the vocabulary and
# drops the saved pre-tokenizer silently: the same text gets other ids, and here the space is lost. Beside a configuration of
# type `llama` or `olmo2` the very same files come back as they were saved.
# Who trains a small Qwen2 with an own tokenizer and evaluates it through AutoTokenizer sees a model that answers nonsense.
#
# Seen:
#   olmo2 TokenizersBackend same ids: True 'add it</think>42'
#   llama TokenizersBackend same ids: True 'add it</think>42'
#   qwen2 Qwen2Tokenizer same ids: False 'addit</think>42'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.23.0 2>/dev/null
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - "$work" <<'PYTHON'
import sys

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, Olmo2Config, PreTrainedTokenizerFast, Qwen2Config

words = ["<pad>", "<eos>", "<unk>", "</think>", *"abcdefghijklmnopqrstuvwxyz </>0123456789"]
own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
own.pre_tokenizer = pre_tokenizers.Split(Regex(r"</think>|[\s\S]"), "isolated")
own.decoder = decoders.Fuse()
saved = PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
text = "add it</think>42"
seen = {}
for config in (Olmo2Config(), LlamaConfig(), Qwen2Config()):
    folder = f"{sys.argv[1]}/{config.model_type}"
    saved.save_pretrained(folder)
    config.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = loaded(text)["input_ids"]
    same = ids == saved(text)["input_ids"]
    print(config.model_type, type(loaded).__name__, "same ids:", same, repr(loaded.decode(ids)))
    seen[config.model_type] = same
sys.exit(seen != {"olmo2": True, "llama": True, "qwen2": False})
PYTHON
