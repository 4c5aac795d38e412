#!/bin/bash
# paretobandit 0.1.1 (Python; numpy, scikit-learn 1.7.2).
#
# Behaviour: `pareto_bandit.config.K3_WARMUP_PRIORS_PATH`, which its experiments hand to `BanditRouter.create(priors="warmup",
# warmup_path=...)`, is a path of its repository (data_collection/...) that an installed wheel does not have. The router is made all the same,
# without priors and without an error: a copy of an experiment against the wheel learns from nothing, and a seed in two stays with
# the cheapest model. The same file is in the wheel, as `DEFAULT_WARMUP_PRIORS_PATH`.
#
# Seen (constant, whether the file is there, sum of absolute values of the priors' reward vectors):
#   K3_WARMUP_PRIORS_PATH False 0.0
#   DEFAULT_WARMUP_PRIORS_PATH True 30860.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/look.py" <<'PY'
import logging
logging.basicConfig(level=logging.CRITICAL)
from pareto_bandit import config
from pareto_bandit.feature_service import FeatureService
from pareto_bandit.router import BanditRouter
from pareto_bandit.storage import EphemeralContextStore
registry = {
    name: {"model_id": name, "display_name": name, "input_cost_per_m": 1.0, "output_cost_per_m": 1.0}
    for name in config.K3_ARM_ORDER
}
for name in ("K3_WARMUP_PRIORS_PATH", "DEFAULT_WARMUP_PRIORS_PATH"):
    path = getattr(config, name)
    router = BanditRouter.create(
        model_registry=registry, feature_service=FeatureService.for_precomputed(26), context_store=EphemeralContextStore(),
        priors="warmup", warmup_path=str(path), prior_n_effective=1163.9, alpha=0.01,
    )
    policy = router.policy if hasattr(router, "policy") else router.bandit
    print(name, path.exists(), round(float(sum(abs(b).sum() for b in policy.b.values())), 1))
PY
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet paretobandit==0.1.1 scikit-learn==1.7.2 >/dev/null 2>&1
"$work/env/bin/python" "$work/look.py" 2>/dev/null | tee "$work/seen"
diff "$work/seen" <(printf '%s\n' 'K3_WARMUP_PRIORS_PATH False 0.0' 'DEFAULT_WARMUP_PRIORS_PATH True 30860.1')
