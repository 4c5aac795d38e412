#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.23.0.
#
# vLLM is not installed. With a folder named vllm beside the script, empty or with somebody's notes (or a clone of
# vLLM's repository, whose package lies one folder deeper), `from trl import GRPOTrainer` fails with "Invalid version:
# 'N/A'". vLLM is optional: you expect it to be distinguished from a folder, as it is without the folder, where the import
# works. Python takes the folder for a package without files, which has no version; TRL compares that version before
# anybody has asked for vLLM. `from trl import SFTTrainer` works in both.
#
# Seen:
#   without the folder: GRPOTrainer, SFTTrainer
#   with the folder:    Invalid version: 'N/A', SFTTrainer
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "trl==1.16.0" "transformers==5.23.0" "torch==2.13.0" jinja2
mkdir -p "$folder/plain" "$folder/beside/vllm"
cat > "$folder/plain/script.py" <<'PY'
import importlib

for name in ("GRPOTrainer", "SFTTrainer"):
    try:
        getattr(importlib.import_module("trl"), name)
        print(name)
    except RuntimeError as error:
        print(str(error).splitlines()[-1])
PY
cp "$folder/plain/script.py" "$folder/beside/script.py"
cd "$folder"
for place in plain beside; do
    venv/bin/python "$place/script.py" 2> /dev/null > "$place.out"
    echo "$place: $(paste -sd, "$place.out")"
done
diff <(printf 'GRPOTrainer\nSFTTrainer\n') plain.out
diff <(printf "Invalid version: 'N/A'\nSFTTrainer\n") beside.out
