#!/usr/bin/env bash
# transformers 5.23.0, with the chat template of Qwen3 that trl 1.16.0 ships.
#
# A response that is to open with a thought is begun as an unfinished assistant message, {"role": "assistant",
# "content": "<think>\n"}, with continue_final_message=True, which is documented to let the model go on with that
# message. The prompt should end in "<|im_start|>assistant\n<think>\n". It ends in an empty thought and then the
# opening, because the template writes "<think>\n\n</think>\n\n" in front of the content of the last assistant message
# that has no reasoning: the model reads that it has thought already. With the text as reasoning_content and
# continue_final_message="reasoning_content" the prompt is right.
#
# Seen, behind the user's message:
#   content            '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<think>\n'
#   reasoning_content  '<|im_end|>\n<|im_start|>assistant\n<think>\nWell'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==5.23.0" "jinja2>=3.1"
"$folder/venv/bin/pip" install -q --no-deps "trl==1.16.0"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import files

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

[path] = [f.locate() for f in files("trl") if str(f) == "trl/chat_templates/qwen3.jinja"]
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="<|im_end|>")
tokenizer.chat_template = open(path, encoding="utf-8").read()
user = {"role": "user", "content": "2 + 2 ="}


def behind(message, continued):
    text = tokenizer.apply_chat_template(
        [user, {"role": "assistant", **message}], tokenize=False, continue_final_message=continued
    )
    return text.partition("2 + 2 =")[2]


content = behind({"content": "<think>\n"}, True)
field = behind({"content": "", "reasoning_content": "Well"}, "reasoning_content")
print("content           ", repr(content))
print("reasoning_content ", repr(field))
assert content == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<think>\n"
assert field == "<|im_end|>\n<|im_start|>assistant\n<think>\nWell"
PY
