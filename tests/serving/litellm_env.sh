#!/bin/bash
# An environment with the LiteLLM proxy that the plug-in is tested with, and what ibpo.serving needs beside it:
#
#     IBPO_LITELLM_PYTHON=$(tests/serving/litellm_env.sh FOLDER) python -m pytest tests/serving/test_litellm_proxy.py
#
# Pinned and hashed: Python 3.11 on Linux x86-64. Never 1.107.0 of LiteLLM, which was reported as compromised; of 1.110.2
# the extra `proxy` could not be installed.
set -euo pipefail
folder=${1:?name a folder}
pins=$(cd "$(dirname "$0")" && pwd)/litellm_pins.txt
[ -x "$folder/bin/litellm" ] || {
    python3.11 -m venv "$folder"
    "$folder/bin/pip" install --quiet --no-deps --require-hashes --only-binary :all: -r "$pins"
} >&2
echo "$folder/bin/python"
