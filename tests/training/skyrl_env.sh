#!/bin/bash
# A folder with the classes of SkyRL 0.3.0 that `ibpo.training.allocate_skyrl` works on:
#
#     IBPO_SKYRL=$(tests/training/skyrl_env.sh FOLDER) python -m pytest -m slow tests/training/test_advantages.py
#
# Not its extras: they want a GPU's kernels (flash-attn, vLLM). torch, transformers and numpy are those of the Python that
# runs the tests. SkyRL says that it runs on Python 3.11, and is imported there only after `typing.TypedDict` has been
# replaced (pydantic refuses it below 3.12): the test does that.
set -euo pipefail
folder=${1:?name a folder}
pins=(
    skyrl==0.3.0 skyrl-gym==0.4.0 ray==2.56.0 tensordict==0.15.3 torchdata==0.11.0 jaxtyping==0.3.11 wadler-lindig==0.1.8
    loguru==0.7.3 omegaconf==2.3.1 hydra-core==1.3.2 antlr4-python3-runtime==4.9.3 func-timeout==4.3.5 pyvers==0.2.3
    cloudpathlib==0.26.0 httpx==0.28.1 httpcore==1.0.9 msgpack==1.2.4 jsonschema==4.26.0
    jsonschema-specifications==2025.9.1 referencing==0.37.0 rpds-py==2026.9.1
)
[ -d "$folder" ] || python3 -m pip install --quiet --target "$folder" --no-deps "${pins[@]}" >&2
echo "$folder"
