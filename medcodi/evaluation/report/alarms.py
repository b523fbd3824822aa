"""Alarms for page and terminal: everything about an evaluation that must not be overlooked."""

from __future__ import annotations

from typing import Any

from medcodi.evaluation.report.wording import (
    NO_FINDING,
    Results,
    counted_findings,
    pretty,
)

PHANTOM = "phantom"  # how the names of phantom datasets begin
SMALL = 100  # studies: fewer give wide intervals
MANY = 0.1  # share of odd contents that is worth a warning
# Flag of contents -> what is said of them.
ODD = {
    "no language": "are no language",
    "not English": "do not look English, the only language that the labeler reads",
    "empty": "are empty",
    "constant": "are constant images",
    "repeated": "repeat another study's content exactly",
}


def alarms(results: Results) -> list[str]:
    """Alarms: annotators that do not know such data, missing studies, exclusions, small numbers."""
    lines = random_extractors(results) + unfit_annotators(results)
    for name, system in results["systems"].items():
        for direction, coverage in system["coverage"].items():
            if coverage["scored"] < coverage["usable"]:
                lines.append(
                    f"{name}, {pretty(direction)}: {coverage['given']} of {coverage['usable']} studies were given, and the "
                    f"{coverage['scored']} that all systems have were scored."
                )
        lines += _alarms_of_directions(name, system)
        lines += [
            f"{name}: {count['truncated']} of {count['studies']} prompts of {prompt} are longer than the model reads; their ends had no influence."
            for prompt, count in system.get("truncated_prompts", {}).items()
        ]
    lines += [
        f"{entry['system']}, {pretty(entry['direction'])}: left out, {entry['reason']} (at least {entry['needed']} are needed). "
        "Choose directions with directions=[...], or evaluate more studies."
        for entry in results.get("directions_left_out", ())
    ]
    if results["excluded"]:
        lines.append(f"{len(results['excluded'])} contents were excluded; they are listed below, each with its reason.")
    if (num := results["data"]["num_studies"]) < SMALL:
        lines.append(f"Only {num} studies: the intervals are wide, and many metrics are left out.")
    return lines


def random_extractors(results: Results) -> list[str]:
    """One sentence for each feature extractor whose weights are random."""
    extractors = results.get("readers", {}).get("extractors") or {}
    return [
        f"The weights of {name!r} are random: this is a dry run, and no distance in these features means anything."
        for name, description in extractors.items()
        if (description.get("settings") or {}).get("random")
    ]


def unfit_annotators(results: dict[str, Any]) -> list[str]:
    """One sentence, with the fix, for each annotator that was trained on phantoms where the data are not marked as phantoms.

    ``results`` is that of ``results.json``; without ``data.phantoms``, as in old bundles, nothing is assumed.
    """
    if results["data"].get("phantoms", True):
        return []
    annotators, sentences = results["readers"], []
    # The image annotator, by the name of its training set.
    training = ((annotators.get("images") or {}).get("data") or {}).get("train") or {}
    if _of_phantoms(training.get("name")):
        sentences.append(
            "Findings and sides in images come from a classifier that was trained on phantoms, and these data are not marked as phantoms: "
            "its figures do not hold for real radiographs. Use image_reader=xrv for those."
        )
    # Feature extractors, by their settings.
    for name, description in (annotators.get("extractors") or {}).items():
        if _of_phantoms((description.get("settings") or {}).get("trained_on")):
            sentences.append(
                f"Distances in the features {name!r} come from a classifier that was trained on phantoms, and these data are not marked as phantoms: "
                "of real radiographs they say little. Use extractors=[xrv] for those."
            )
    # The prompt encoder, which is the shipped model's where no model was named.
    encoder = annotators.get("encoder") or {}
    if encoder and results["config"].get("model") is None:
        sentences.append(
            f"Coherence was measured in the latent space of the shipped model {encoder['model']!r}, which was trained on phantoms, "
            "and these data are not marked as phantoms. For real ones use model=..., or leave coherence out of metrics."
        )
    return sentences


def _of_phantoms(name: str | None) -> bool:
    return name is not None and name.startswith(PHANTOM)


def _alarms_of_directions(name: str, system: dict[str, Any]) -> list[str]:
    """Figures that rest on *No Finding* alone, and contents that are odd in many studies."""
    lines: list[str] = []
    odd: dict[str, list[str]] = {}  # what is said of contents -> the directions of which it is said
    for direction, scores in system["directions"].items():
        for target, labels in counted_findings(scores).items():
            if labels == [NO_FINDING]:
                lines.append(
                    f"{name}, {pretty(direction)}: of {target} only {NO_FINDING} counts, so its F1 says whether studies are "
                    "normal, not what they show. Evaluate more studies, or lower min_positives."
                )
        for target, own in scores["targets"].items():
            for flag, said in ODD.items():
                count, num = own.get("flags", {}).get(flag, {}).get("count", 0), scores["num_studies"]
                if count > MANY * num:
                    odd.setdefault(f"{count} of {num} contents of {target} {said}", []).append(pretty(direction))
    return lines + [f"{name}, {', '.join(directions)}: {what}." for what, directions in odd.items()]
