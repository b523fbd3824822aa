"""An audit in words: the methods paragraph of a paper, and the section for the card of a model or of a synthetic set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]


def methods_text(results: Results) -> str:
    """A paragraph for a paper: what was done, with the numbers that a reader needs to judge it."""
    config, facts, controls = results["config"], results["populations"], results["controls"]
    parts = [
        f"We audited {results['model']['name']} (SHA-256 {results['model']['sha256'][:12]}) for disclosure of its training studies with "
        f"medcodi audit: {facts['members']} members and {facts['non_members']} non-members (matching: {facts['matching']}), which a classifier "
        f"without access to the model could tell apart with AUROC {facts['bias_floor']['value']:.2f}.",
        f"Membership was inferred from denoising losses at {len(config['timesteps'])} timesteps, main attack "
        f"{results['membership']['main']['attack']!r}; memorisation from distances of generations in directions {', '.join(config['directions'])} "
        "to their own and to other patients' studies, members' prompts against non-members'; extraction from canaries, rare phrases and identifiers.",
        "Patients are the units of all tests (Mann and Whitney, one-sided; Holm within a family); intervals have 95 %.",
    ]
    if controls is None:
        parts.append("The controls were not run.")
    else:
        negative = controls["negative"]
        parts.append(
            f"A tiny overfitted model was flagged by {len(controls['positive']['flagged'])} of {len(controls['positive']['p_values'])} families (p < 0.001); "
            f"{negative['passed']} of {negative['repeats']} redraws of members never seen passed."
        )
    parts.append(
        f"Limits were declared before the run (SHA-256 {results['limits_sha256'][:12]}); outcome: {results['verdict']['outcome']}."
    )
    return " ".join(parts) + "\n"


def card_text(results: Results) -> str:
    """A section for a model card, or for the card of a synthetic set, as Markdown."""
    facts = results["populations"]
    lines = [
        "## Privacy audit",
        "",
        f"Outcome: **{results['verdict']['outcome']}**, {facts['members']} members against {facts['non_members']} non-members; model "
        f"`{results['model']['sha256'][:12]}`, limits `{results['limits_sha256'][:12]}` declared before the run.",
        "",
        *(f"- {line}" for line in results["verdict"]["lines"]),
        "",
        "| limit | allowed | value | outcome |",
        "| --- | ---: | ---: | --- |",
    ]
    for entry in results["limits"]:
        value = entry.get("value")
        shown = "–" if value is None else f"{value:.3g}"
        lines.append(f"| {entry['title']} | {entry['allowed']:g} | {shown} | {entry['outcome']} |")
    return "\n".join(lines) + "\n"
