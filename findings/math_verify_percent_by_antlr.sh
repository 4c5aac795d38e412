#!/bin/bash
# math-verify 0.9.0 with latex2sympy2_extended 1.11.0 (Python), antlr4-python3-runtime 4.9.3 against 4.13.2.
#
# Behaviour: what a LaTeX percentage is worth depends on which of the supported ANTLR runtimes is installed. latex2sympy2_extended
# ships one generated grammar for each (4.9.3, 4.11.0, 4.13.2) and takes that of the installed one silently; the older
# grammars pass over the percent sign. So the same grader says that 12\% is 0.12, or that it is not, and a package that pins
# 4.9.3 (Hydra and OmegaConf do) changes rewards.
#
# Seen (runtime, gold 0.12 accepts 12\%, gold 3/25 accepts 12\%, what 12\% is parsed as):
#   4.9.3 False False 12
#   4.13.2 True True 12*(1/100)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/look.py" <<'PY'
from importlib.metadata import version
from math_verify import parse, verify
said = [verify(parse(gold), parse(r"$12\%$")) for gold in ("$0.12$", r"$\frac{3}{25}$")]
print(version("antlr4-python3-runtime"), *said, parse(r"$12\%$")[0])
PY
for runtime in 4.9.3 4.13.2; do
  python3 -m venv "$work/$runtime"
  "$work/$runtime/bin/pip" install --quiet math-verify==0.9.0 latex2sympy2_extended==1.11.0 "antlr4-python3-runtime==$runtime" >/dev/null 2>&1
  "$work/$runtime/bin/python" "$work/look.py" 2>/dev/null | tee -a "$work/seen"
done
diff "$work/seen" <(printf '%s\n' '4.9.3 False False 12' '4.13.2 True True 12*(1/100)')
