#!/bin/bash
# math-verify 0.9.0 with latex2sympy2_extended 1.11.0 (Python), antlr4-python3-runtime 4.13.2.
#
# Behaviour: where the gold is a set, a tuple of its elements in ANY order is right; where the gold is a tuple, the set is wrong, and so
# is the tuple in another order, unless the gold happens to be a pair in rising order, which is parsed as an open interval and equals
# the set of its two ends. So exchanging answer and gold changes verdicts, and (1, 2) behaves otherwise than (2, 1).
#
# Seen (gold, answer, verdict):
#   {1,2,3} (3,1,2) True
#   (3,1,2) {1,2,3} False
#   (1,2) {1,2} True
#   (2,1) {1,2} False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet math-verify==0.9.0 latex2sympy2_extended==1.11.0 antlr4-python3-runtime==4.13.2 >/dev/null 2>&1
cat >"$work/look.py" <<'PY'
from math_verify import parse, verify
pairs = [(r"\{1,2,3\}", "(3,1,2)"), ("(3,1,2)", r"\{1,2,3\}"), ("(1,2)", r"\{1,2\}"), ("(2,1)", r"\{1,2\}")]
for gold, answer in pairs:
    said = verify(parse(f"${gold}$"), parse(f"${answer}$"))
    print(gold.replace("\\", ""), answer.replace("\\", ""), said)
PY
"$work/venv/bin/python" "$work/look.py" 2>/dev/null | tee "$work/seen"
diff "$work/seen" <(printf '%s\n' '{1,2,3} (3,1,2) True' '(3,1,2) {1,2,3} False' '(1,2) {1,2} True' '(2,1) {1,2} False')
