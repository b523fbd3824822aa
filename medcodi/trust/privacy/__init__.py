"""Whether a generator discloses the studies it was trained on: an audit with controls and a gate (docs/PRIVACY.md)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcodi.trust.privacy.config import AuditConfig
    from medcodi.trust.privacy.job import audit
    from medcodi.trust.privacy.results import verify_audit

__all__ = ["AuditConfig", "audit", "verify_audit"]

_MODULES = {"AuditConfig": "config", "audit": "job", "verify_audit": "results"}  # imported on first use


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
