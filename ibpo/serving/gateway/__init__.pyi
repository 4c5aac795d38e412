from .gains import ROUTER_SECONDS, FittedRouter, GainPredictor, PredictedGains
from .quotas import open_quotas
from .server import Service, running, serve
from .settings import (
    GROUPS_BY,
    POLICY_TABLES,
    Keys,
    Settings,
    build_policy,
    build_settings,
    check_tenant,
    default_groups,
    keys_from_environment,
    new_key,
    read_keys,
    read_settings,
)
from .telemetry import RequestLog, open_log

__all__ = [
    "GROUPS_BY",
    "POLICY_TABLES",
    "ROUTER_SECONDS",
    "FittedRouter",
    "GainPredictor",
    "Keys",
    "PredictedGains",
    "RequestLog",
    "Service",
    "Settings",
    "build_policy",
    "build_settings",
    "check_tenant",
    "default_groups",
    "keys_from_environment",
    "new_key",
    "open_log",
    "open_quotas",
    "read_keys",
    "read_settings",
    "running",
    "serve",
]
