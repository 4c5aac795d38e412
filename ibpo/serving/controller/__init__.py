"""Hold an average budget on a stream of requests: which response group does each request get?

Two calls per request, `Controller.decide` and `Controller.settle`. In the order of reading: `policy` (what must be
held), `accounts` (what was spent), `admission` (what may be spent: the theorem), `window` (what recent requests would
spend at a price), `alarm` (has the traffic changed?), `pricing` (what is worth it, and how much room it needs),
`correction` (what lengths really are), `controller` (the choice), `leases` (many processes on one budget).
"""

from ibpo.serving.controller.accounts import (
    QUOTA,
    TOTAL,
    AccountStore,
    MemoryStore,
    Reservation,
    StoreError,
    TokenBucket,
)
from ibpo.serving.controller.controller import Candidate, Controller
from ibpo.serving.controller.leases import Leaseholder, LeaseStore, end_lease, exchange
from ibpo.serving.controller.policy import (
    LARGEST,
    BudgetPolicy,
    ServingPolicy,
    TenantPolicy,
    parse_budget_policies,
    read_policy,
    show,
    widen,
)
from ibpo.serving.controller.window import PROHIBITIVE

__all__ = [
    "LARGEST",
    "PROHIBITIVE",
    "QUOTA",
    "TOTAL",
    "AccountStore",
    "BudgetPolicy",
    "Candidate",
    "Controller",
    "LeaseStore",
    "Leaseholder",
    "MemoryStore",
    "Reservation",
    "ServingPolicy",
    "StoreError",
    "TenantPolicy",
    "TokenBucket",
    "end_lease",
    "exchange",
    "parse_budget_policies",
    "read_policy",
    "show",
    "widen",
]
