"""``medcodi turing lint``: an attack on a bundle. What tells the arms apart by other means than anatomy is named, and fails.

Files, names, times, order and encoding are made equal by the exporter, so any difference between the arms there is a leak. What the
pixels and words themselves tell is what readers judge: its area under the curve is reported and fails nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medcodi.errors import DataError
from medcodi.turing.bundle.folder import Bundle, open_bundle
from medcodi.turing.bundle.key import Key, read_key
from medcodi.turing.bundle.payload import Payload
from medcodi.turing.design.blinding import BlindingConfig
from medcodi.turing.lint.arms import LintReport, Measured, attack
from medcodi.turing.lint.files import check_files
from medcodi.turing.lint.order import told_words


def lint_bundle(
    place: str | Path, key: str | Path | Key | None = None, on_step: Callable[[int, int], None] | None = None
) -> LintReport:
    """Attack a bundle.

    Args:
        place: Of the bundle, or of one reader's folder.
        key: The custodian's folder; None: only rules that need no key, as a reader could apply them.
        on_step: Called with (payloads read, in all).

    Raises:
        DataError: If there is no bundle, or the key is not its key.
    """
    bundle = open_bundle(place)
    known = key if isinstance(key, Key) or key is None else read_key(key)
    if known is not None:
        _check_key(bundle, known)
    blinding = _blinding(bundle, known)
    measured = Measured(blinding)
    total = sum(len(reader.payload_files()) for reader in bundle.readers)

    def take(reader: str, payload: Payload) -> None:
        measured.take(reader, payload)
        if on_step:
            on_step(len(measured.encoding), total)

    report = LintReport()
    seen = check_files(bundle, take)
    report.leaks += seen.leaks
    if known is None:
        report.notes.append("no key: whether the arms differ was not tested")
        report.leaks += measured.odd_ones()
        return report
    report.leaks += told_words(bundle, known)
    attack(report, bundle, known, seen, measured)
    return report


def _check_key(bundle: Bundle, key: Key) -> None:
    told = bundle.facts.get("key_sha256") or bundle.readers[0].study.get("key_sha256")
    if bundle.readers[0].study.get("bundle_id") != key.bundle_id:
        raise DataError(
            f"the key is of bundle {key.bundle_id}, not of this one", fix="give this bundle's custodian folder"
        )
    if told != key.sha256:
        raise DataError(
            "the key is not the one whose SHA-256 the bundle holds", expected="the key unchanged", fix="take its copy"
        )


def _blinding(bundle: Bundle, key: Key | None) -> BlindingConfig:
    if key is not None:
        return key.study.blinding
    return BlindingConfig(**bundle.facts["blinding"]) if "blinding" in bundle.facts else BlindingConfig()
