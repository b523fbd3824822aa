"""Whether a generator discloses the studies it was trained on: an audit with controls and a gate (docs/PRIVACY.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcodi.lazy import lazy_names

if TYPE_CHECKING:
    from medcodi.trust.privacy.config import AuditConfig
    from medcodi.trust.privacy.job import audit
    from medcodi.trust.privacy.results import verify_audit

__all__ = ["AuditConfig", "audit", "verify_audit"]

# Imported on first use.
__getattr__ = lazy_names(__name__, {"AuditConfig": ".config", "audit": ".job", "verify_audit": ".results"})
