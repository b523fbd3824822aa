"""Cards of synthetic sets: source, generator, prompts, counts, subgroups, agreement with the prompts, known limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcodi.errors import DataError
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder
from medcodi.trust.privacy.job import card_text as audit_text

_POLICY = {
    "reuse": "the contents of each training study, in turn",
    "rebalance": "contents of training studies, every finding equally often",
    "mix": "the report of one training study with a statement about a finding from another one's",
}


def read_audit(folder: str) -> dict[str, Any]:
    """The results of a bundle of ``medcodi audit``.

    Raises:
        DataError: If there are none.
    """
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        audit_text(results)  # refuses what the cards could not quote
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"privacy_audit names {folder}, which holds no results: {error}",
            expected="a finished bundle of medcodi audit",
            fix="run the audit to its end, or leave privacy_audit out",
        ) from None
    return results


def _audit_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    return None if config["privacy_audit"] is None else read_audit(config["privacy_audit"])


def quoted(audit: Mapping[str, Any] | None, folder: str | None, sha256: str | None) -> Any:
    """The entry of a card about an audit: its outcome and lines, and whether it was of this generator (None: of files, whose model nobody knows)."""
    if audit is None:
        return "none"
    audited = audit["model"]["sha256"]
    of = {None: "not known: the studies are files", audited: "yes"}.get(sha256, "no: of another model")
    return {
        "bundle": folder,
        "of_this_generator": of,
        "model": audited[:12],
        "limits": audit["limits_sha256"][:12],
        "outcome": audit["verdict"]["outcome"],
        "lines": list(audit["verdict"]["lines"]),
    }


def card(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The card of a generator's synthetic studies, JSON-ready; a field that nobody knows says so.

    The fields are those of a card of synthetic medical data: source, generator, prompts, counts, findings, subgroups, quality, limits,
    privacy. The audit that ``privacy_audit`` names is read.
    """
    generator, config = results["generators"][name], results["config"]
    options, pools = config["generators"][name], generator["pools"]
    unknown = generator["num_patients"] is None
    limits = [
        "Labels are those of the prompt: a study may not show what its prompt says; see agreement.",
        "Not for diagnosis, and no replacement of a test on real studies.",
    ]
    if unknown:
        limits.append("The patients that the generator was trained on are not known.")
    return {
        "name": name,
        "source": "a model of MedCoDi" if options["model"] is not None else "files that another system generated",
        "generator": {
            **generator["identity"],
            "training_patients": "not known" if unknown else generator["num_patients"],
            "sampling": options["preset"] if options["model"] is not None else "not known",
        },
        "direction": options["direction"],
        "prompts": _POLICY[options["prompts"]]
        if options["model"] is not None
        else "contents of training studies of the same ids",
        "prompts_with": options["finding"] or "any finding",
        "training_data": results["data"]["train"]["name"],
        "studies": [pool["num_studies"] for pool in pools],
        "image_sizes": [pool["sizes"] for pool in pools],
        "left_out": [pool["num_left_out"] for pool in pools],
        "prompting_studies": [pool["num_prompts"] for pool in pools],
        "findings": [pool["cases"] for pool in pools],
        "subgroups_of_the_prompts": [pool["groups"] for pool in pools],
        "agreement_with_the_prompt": [pool["agreement"] for pool in pools],
        "share_that_passes_the_filter": [pool["pass_filter"] for pool in pools],
        "marks": "XMP in every film (DigitalSourceType trainedAlgorithmicMedia, the model), result.json with hashes beside it"
        if options["model"] is not None
        else "not known",
        "known_limits": limits,
        "privacy_audit": quoted(_audit_of(config), config["privacy_audit"], generator["identity"].get("sha256")),
    }


def write_cards(job: JobFolder, results: Mapping[str, Any]) -> None:
    """Write ``cards/<generator>.json`` and ``.md`` of every generator; the audit's own section ends the text."""
    audit = _audit_of(results["config"])
    for name in results["generators"]:
        content = card(results, name)
        section = "" if audit is None else f"\n{audit_text(audit)}"
        job.write_json(job.root / "cards" / f"{name}.json", content)
        atomic.write_text(job.root / "cards" / f"{name}.md", card_text(content) + section, error=DataError)


def card_text(content: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [f"# Synthetic studies: {content['name']}", ""]
    for key, value in content.items():
        if key != "name":
            lines.append(f"- **{key.replace('_', ' ')}**: {_words(value)}")
    return "\n".join(lines) + "\n"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_words, value)) or "none"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
