"""The results of an evaluation as a page: summary, tables of images and reports, a row of pictures for each direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.evaluation.held_out import HeldOut, Value, read_values
from medcodi.evaluation.page import Cell, PictureRow, Section, Table, write_page
from medcodi.modality import MODALITIES, modality
from medcodi.study import CHEXPERT_LABELS, Direction

_TITLES = {
    "frechet": "Fréchet distance ↓",
    "finding_macro_f1": "finding F1, macro ↑",
    "finding_micro_f1": "finding F1, micro ↑",
    "side_accuracy": "side right ↑",
    "bleu_1": "BLEU-1 ↑",
    "bleu_2": "BLEU-2 ↑",
    "bleu_3": "BLEU-3 ↑",
    "bleu_4": "BLEU-4 ↑",
    "rouge_l": "ROUGE-L ↑",
    "meteor": "METEOR ↑",
    "cider": "CIDEr ↑",
}


def number(value: float | None) -> str:
    """Three significant digits; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def with_interval(figure: dict[str, Any] | None) -> str:
    """``0.712 [0.690, 0.731]``."""
    if not figure or figure.get("value") is None:
        return "–"
    spread = "" if figure.get("low") is None else f" [{number(figure['low'])}, {number(figure['high'])}]"
    return number(figure["value"]) + spread


def pretty(direction: str) -> str:
    """A direction for people: ``frontal + report → lateral``."""
    prompts, _, targets = direction.partition("->")
    return f"{prompts.replace('+', ' + ') or 'nothing'} → {targets.replace('+', ' + ')}"


def summary_table(results: dict[str, Any]) -> Table:
    """Direction -> primary metric, shuffled prompts, difference, ceiling."""
    rows = []
    for name, scores in results["directions"].items():
        primary = scores["primary"]
        verdict = {True: "yes", False: "no", None: "–"}[primary["beats_shuffled"]]
        share = "–" if primary["fraction_of_ceiling"] is None else f"{100 * primary['fraction_of_ceiling']:.0f} %"
        rows.append(
            (
                pretty(name),
                with_interval(primary["model"]),
                number(primary["ceiling"]),
                share,
                with_interval(primary["shuffled"]),
                with_interval(primary["difference"]),
                verdict,
                str(scores["num_studies"]),
            )
        )
    return Table(
        columns=(
            "direction",
            "finding F1, macro",
            "ceiling",
            "of ceiling",
            "prompts shuffled",
            "difference",
            "beats shuffled",
            "studies",
        ),
        rows=rows,
    )


def metric_table(results: dict[str, Any], kind: str) -> Table:
    """Every metric of the targets of one kind, with interval, ceiling and floor."""
    scored = [
        (name, target, scores["targets"][target]["metrics"])
        for name, scores in results["directions"].items()
        for target in scores["targets"]
        if MODALITIES[target].kind == kind
    ]
    present = [metric for metric in _TITLES if any(metric in metrics for _, _, metrics in scored)]
    rows = []
    for name, target, metrics in scored:
        cells = [_cell(metrics.get(metric)) for metric in present]
        rows.append((pretty(name), target, *cells))
    return Table(
        columns=("direction", "target", *(_TITLES[metric] for metric in present)),
        rows=rows,
        caption="value [95 % interval] · c: ceiling · f: floor (prompts shuffled)",
    )


def _cell(figure: dict[str, Any] | None) -> str:
    if not figure:
        return "–"
    extras = [
        f"{letter} {number(figure[key])}"
        for letter, key in (("c", "ceiling"), ("f", "floor"))
        if figure.get(key) is not None
    ]
    return " · ".join([with_interval(figure), *extras])


def finding_tables(results: dict[str, Any]) -> list[Table]:
    """F1 per finding: one table for each target modality, a row for each direction."""
    tables = []
    for target in MODALITIES:
        scored = [
            (name, scores["targets"][target]["findings"])
            for name, scores in results["directions"].items()
            if target in scores["targets"]
        ]
        present = [label for label in CHEXPERT_LABELS if any(label in findings for _, findings in scored)]
        if not present:
            continue
        rows = [
            (pretty(name), *(number(findings[label]["f1"]) if label in findings else "–" for label in present))
            for name, findings in scored
        ]
        first = scored[0][1]
        rows.append(
            (
                "ceiling: real " + target,
                *(number(first[label]["ceiling_f1"]) if label in first else "–" for label in present),
            )
        )
        rows.append(
            ("positive studies", *(str(first[label]["positives"]) if label in first else "–" for label in present))
        )
        tables.append(
            Table(columns=("direction", *present), rows=rows, caption=f"F1 per finding, {modality(target).title}")
        )
    return tables


def shown_study(held: HeldOut, rows: Sequence[int]) -> int:
    """Position in ``rows`` of the study on the page: the first one with a finding beside devices; the first where there is none."""
    skipped = [CHEXPERT_LABELS.index(label) for label in ("No Finding", "Support Devices")]
    sick = np.delete(held.truth[list(rows)] == 1, skipped, axis=1).any(1)
    return int(np.argmax(sick))


def _findings_note(held: HeldOut, target: str, value: Value) -> str:
    if MODALITIES[target].kind == "image" and held.classifier is None:
        return ""
    labels = read_values(held.classifier, target, [value]).labels[0]
    return "read: " + (
        ", ".join(label for label, told in zip(CHEXPERT_LABELS, labels, strict=True) if told == 1) or "nothing"
    )


def picture_row(
    held: HeldOut, direction: Direction, rows: Sequence[int], generated: dict[str, list[Value]]
) -> PictureRow:
    """Prompts, generated and true targets of one study."""
    position = shown_study(held, rows)
    row = rows[position]
    cells = [
        Cell(caption=modality(name).title, role="prompt", value=held.values(name, [row])[0])
        for name in direction.prompts
    ]
    for role, values in (
        ("generated", {name: generated[name][position] for name in direction.targets}),
        ("truth", {name: held.values(name, [row])[0] for name in direction.targets}),
    ):
        cells += [
            Cell(caption=modality(name).title, role=role, value=value, note=_findings_note(held, name, value))
            for name, value in values.items()
        ]
    true = [label for label, told in zip(CHEXPERT_LABELS, held.truth[row], strict=True) if told == 1]
    return PictureRow(
        title=pretty(str(direction)),
        cells=cells,
        note=f"study {held.studies[row].study_id}; truth: {', '.join(true) or 'nothing told'}",
    )


def _notes(results: dict[str, Any]) -> str:
    lines = [
        f"{pretty(name)}, {target}: {note}."
        for name, scores in results["directions"].items()
        for target, told in scores["targets"].items()
        for note in told["notes"]
    ]
    return "\n".join(dict.fromkeys(lines))


def sections(
    results: dict[str, Any], held: HeldOut, generated: Callable[[Direction], dict[str, list[Value]] | None]
) -> list[Section]:
    """The parts of the page, in order."""
    pictures = []
    for name in results["directions"]:
        direction = Direction.parse(name)
        if (contents := generated(direction)) is not None:
            pictures.append(picture_row(held, direction, held.usable(direction), contents))
    explained = (
        "Macro finding F1, averaged over the targets of a direction: findings read from what was generated (images: a classifier "
        "trained on real images; reports: a rule labeler) "
        "against the truth of the study that prompted it. Ceiling: the same readers on the real targets. "
        "Prompts shuffled: the same generations against other patients' truth, "
        "over derangements. Difference: paired bootstrap over patients."
    )
    parts = [
        Section(title="Does the prompt decide what is generated?", text=explained, tables=(summary_table(results),))
    ]
    kinds = {MODALITIES[target].kind for scores in results["directions"].values() for target in scores["targets"]}
    if "image" in kinds:
        parts.append(
            Section(
                title="Images",
                text="Fréchet distance in the features of the finding classifier; its ceiling is between random halves of the real images.",
                tables=(metric_table(results, "image"),),
            )
        )
    if "text" in kinds:
        parts.append(
            Section(
                title="Reports",
                text="Text metrics have no ceiling here: each study has one true report.",
                tables=(metric_table(results, "text"),),
            )
        )
    parts.append(
        Section(
            title="Pictures",
            text="Blue: prompt. Orange: generated. Green: truth. One study per direction, the first with a finding.",
            rows=pictures,
        )
    )
    parts.append(Section(title="Findings one by one", tables=finding_tables(results), folded=True))
    if notes := _notes(results):
        parts.append(Section(title="Left out, and why", text=notes, folded=True))
    rows = [
        (key, str(value))
        for group in ("model", "data", "settings", "scoring", "versions")
        for key, value in ((f"{group}.{name}", value) for name, value in results[group].items())
    ]
    parts.append(Section(title="What was run", tables=(Table(columns=("", "value"), rows=rows),), folded=True))
    return parts


def write_results_page(
    path: Path, results: dict[str, Any], held: HeldOut, generated: Callable[[Direction], dict[str, list[Value]] | None]
) -> Path:
    """Write the page; returns its path."""
    lead = f"{results['model']['name']} on {results['data']['num_studies']} held-out studies of {results['data']['name']}, seed {results['config']['seed']}."
    return write_page(path, "MedCoDi: evaluation", sections(results, held, generated), lead=lead)
