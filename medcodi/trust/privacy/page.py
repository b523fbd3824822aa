"""The page of an audit: gate, controls, figures of every family with their pictures, populations, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi.evaluation.systems.contents import ContentFolder
from medcodi.pages.charts import Curve, ForestRow, forest_chart, line_chart
from medcodi.pages.page import Cell, Figure, Head, PictureRow, Plot, Section, Table, render_page, write_page
from medcodi.study import Direction
from medcodi.trust.privacy.gate import FAILS, HOLDS
from medcodi.trust.privacy.statistics import epsilon_shown

if TYPE_CHECKING:
    from medcodi.storage.job_folder import JobFolder
    from medcodi.trust.privacy.measure import Subject

Results = Mapping[str, Any]
_SHADES = {HOLDS: 1.0, FAILS: 0.0}
_MEMORISATION = (
    "A generation resembles the study that prompted it, whether or not the model was trained on it: that is conditioning. So members' "
    "prompts are set against non-members' prompts. Own study: area under the ROC curve of closeness to the study of the prompt, "
    "divided by the distance to other patients; 0.5 is no memory. Nearest: how often the nearest study of another patient is a member's, above chance. "
    "Copies: generations nearer to their study than all but 1 % of real studies are to any other patient's."
)
_MEMBERSHIP = (
    "Each attack scores how likely a study was in the training data, from the denoisers' losses; the area under the ROC curve is 0.5 for "
    "guessing. p: one-sided, adjusted by Holm over all tests of the family. The set-level test asks whether the members as a set score higher, "
    "which is seen long before a single member can be named."
)
_EXTRACTION = (
    "Exposure of a canary: bits by which its random code ranks above other codes of the same form; 1.44 in the mean for one never "
    "planted. A rare phrase is a run of words that the real reports of one patient alone hold. Identifiers are found by rules, which "
    "see forms, and no names without a title."
)
_ATTRIBUTES = (
    "An attacker who learnt an attribute from real studies of other people reads it in generations. The prompts' column is what the prompt "
    "gives away by itself, the real column what a real target would. The gain for members is what the training disclosed."
)


def write_audit_page(path: Path, results: Results, subject: Subject, job: JobFolder) -> Path:
    """Write the page, with the most similar pairs as pictures."""
    return write_page(path, render_page(_head(results), sections(results, _pairs(results, subject, job))))


def sections(results: Results, pairs: Sequence[PictureRow] = ()) -> list[Section]:
    """The parts of the page, in order."""
    parts = [
        Section(title="Gate", text="Limits declared before the run.", tables=[_gate_table(results)]),
        _controls(results),
        _membership(results),
        Section(title="Memorisation", text=_MEMORISATION, tables=[_memorisation_table(results)], rows=pairs),
        Section(title="Extraction", text=_EXTRACTION, tables=_extraction_tables(results)),
    ]
    if rows := results["reidentification"]["rows"]:
        table = Table(
            columns=["direction", "target", "matched, members less non-members"],
            rows=[[row["direction"], row["target"], Figure.of(row["excess"])] for row in rows],
            left=2,
        )
        parts.append(Section(title="Re-identification", tables=[table, *_ruler_tables(results)]))
    if rows := results["attributes"]["rows"]:
        parts.append(Section(title="Attributes", text=_ATTRIBUTES, tables=[_attribute_table(rows)]))
    parts.append(_populations(results))
    if results["left_out"]:
        rows = [[entry["figure"], entry["reason"]] for entry in results["left_out"]]
        parts.append(Section(title="Left out", tables=[Table(columns=["figure", "reason"], rows=rows, left=2)]))
    return parts


def _p(value: float | None) -> Figure:
    return Figure(text="–" if value is None else f"{value:.1e}" if value < 0.001 else f"{value:.3f}", value=value)


# ---- parts -----------------------------------------------------------------------------------------------------------
def _head(results: Results) -> Head:
    facts = results["populations"]
    return Head(
        title=f"Privacy audit of {results['model']['name']}",
        lead=f"{facts['members']:,} members ({results['data']['members']['name']}) against {facts['non_members']:,} non-members "
        f"({results['data']['non_members']['name']}). This page may show real films: it is confidential.",
        verdict=results["verdict"]["lines"],
        facts=[
            (results["verdict"]["outcome"], "verdict"),
            (f"{facts['members']:,}", "members"),
            (f"{facts['non_members']:,}", "non-members"),
            (f"{facts['bias_floor']['value']:.2f}", "AUROC without a model"),
            (results["limits_sha256"][:12], "SHA-256 of the limits"),
            (results["model"]["sha256"][:12], "SHA-256 of the model"),
        ],
    )


def _gate_table(results: Results) -> Table:
    rows = []
    for entry in results["limits"]:
        value = Figure.of(entry) if "low" in entry else _p(entry.get("value"))
        outcome = Figure(text=entry["outcome"], shade=_SHADES.get(entry["outcome"]))
        rows.append([entry["title"], entry.get("of", ""), outcome, value, Figure(text=f"{entry['allowed']:g}")])
    return Table(columns=["limit", "worst figure", "outcome", "value", "allowed"], rows=rows, left=2)


def _controls(results: Results) -> Section:
    controls = results["controls"]
    if controls is None:
        return Section(title="Controls", alarms=["The controls were not run."])
    positive, negative = controls["positive"], controls["negative"]
    rows = [
        [f"positive: {family}", Figure(text="flagged" if family in positive["flagged"] else "missed"), _p(p)]
        for family, p in positive["p_values"].items()
    ]
    needed = f"of {negative['repeats']}, {negative['needed']} needed"
    rows += [
        ["negative: redraws that pass", Figure(text=str(negative["passed"]), small=needed), Figure(text="–")],
        ["negative: intervals with 0.5", Figure(text=str(negative["held_half"]), small=needed), Figure(text="–")],
    ]
    text = (
        "Positive: a tiny model, overfitted on a few dozen studies with canaries, must be flagged by every family. Negative: half of the "
        "non-members are called members, again and again; none of them was ever seen, so the audit must let them pass."
    )
    table = Table(columns=["control", "outcome", "p"], rows=rows)
    return Section(title="Controls", text=text, alarms=controls["problems"], tables=[table])


def _membership(results: Results) -> Section:
    family = results["membership"]
    main, shown = family["main"], epsilon_shown(family["main"])
    rows = [
        [row["target"], row["context"], row["attack"], Figure.of(row["auroc"]), _p(row.get("p_holm"))]
        for row in family["attacks"]
    ]
    tables = [
        Table(columns=["target", "context", "attack", "AUROC", "p"], rows=rows, left=3),
        Table(
            columns=["main attack", "value", "p"],
            rows=[
                ["AUROC over all targets", Figure.of(main["auroc"]), _p((main["auroc"] or {}).get("p_value"))],
                *(
                    [f"members found at {float(rate):.1%} false alarms", Figure.of(share), Figure(text="–")]
                    for rate, share in main["true_alarms"].items()
                ),
                ["ε shown, at least (δ = 1e-5)", Figure(text="–" if shown is None else f"{shown:.2f}"), _p(None)],
                ["set-level test", Figure(text="–"), _p((main["set_test"] or {}).get("p_value"))],
            ],
        ),
    ]
    forest = [
        ForestRow.of(f"{row['target']}, {row['context']}: {row['attack']}", row["auroc"]) for row in family["attacks"]
    ]
    targets = list(dict.fromkeys(row["target"] for row in family["timesteps"]))
    points = {
        target: [
            (round(row["timestep"] * 1000), row["auroc"]) for row in family["timesteps"] if row["target"] == target
        ]
        for target in targets
    }
    curves = [Curve(target, points[target], colour=place) for place, target in enumerate(targets)]
    plots = [
        Plot(svg=forest_chart("Members against non-members", forest, x_label="AUROC", reference=0.5)),
        Plot(svg=line_chart("AUROC by timestep, with prompts", curves, x_label="timestep, thousandths")),
    ]
    return Section(title="Membership", text=_MEMBERSHIP, plots=[plot for plot in plots if plot.svg], tables=tables)


def _memorisation_table(results: Results) -> Table:
    rows = [
        [
            *(row[name] for name in ("direction", "target", "space")),
            *(Figure.of(row[name]) for name in ("calibrated", "own", "nearest", "copies")),
        ]
        for row in results["memorisation"]["rows"]
    ]
    columns = ["direction", "target", "space", "own study", "own, not divided", "nearest, above chance", "copies"]
    return Table(columns=columns, rows=rows, left=3)


def _extraction_tables(results: Results) -> list[Table]:
    family, tables = results["extraction"], []
    if family["canaries"] is not None:
        rows = [
            [
                row["modality"],
                Figure(text=str(row["repetitions"]), value=row["repetitions"]),
                Figure(text=f"{row['exposure']:.2f}"),
            ]
            for row in family["canaries"]["rows"]
        ]
        caption = f"Canaries; the highest exposure is {family['canaries']['highest']:.0f} bits"
        tables.append(Table(columns=["modality", "times planted", "exposure"], rows=rows, caption=caption))
    if family["phrases"]:
        what = {"own": "share of the own rare phrases", "others": "generations that repeat it for others"}
        rows = [
            [row["direction"], what[row["of"]], Figure.of(row["excess"], 4), _p(row["excess"]["p_value"])]
            for row in family["phrases"]
        ]
        tables.append(Table(columns=["direction", "phrases", "members less non-members", "p"], rows=rows, left=2))
    rows = []
    for row in family["identifiers"]:
        categories = ", ".join(f"{name} ({count})" for name, count in row["categories"].items()) or "none"
        real = " / ".join(f"{share:.3f}" for share in row["real"].values())
        by = row.get("by", "rules of our own")
        rows.append([row["direction"], by, categories, Figure.of(row["generated"]), Figure(text=real)])
    if rows:
        columns = ["direction", "by", "identifiers found", "share of generated reports", "of real ones"]
        tables.append(Table(columns=columns, rows=rows, left=3))
    return tables


def _ruler_tables(results: Results) -> list[Table]:
    ruler = results["reidentification"]["ruler"] or {}
    rows = [
        [view, Figure.of(own["auroc"]), Figure(text=f"{own['matched_real_pairs']:.2f}"), Figure(text=str(own["pairs"]))]
        for view, own in ruler.items()
    ]
    columns = ["view", "AUROC on real pairs", "real pairs matched at 1 % false matches", "pairs"]
    return [Table(columns=columns, rows=rows, caption="The ruler")] if rows else []


def _attribute_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = [
        [
            row["attribute"],
            row["direction"],
            *(Figure(text=f"{row['members'][source]:.2f}") for source in ("prompts", "generated", "real")),
            Figure(text=f"{row['non_members']['generated']:.2f}"),
            Figure.of(row["gain"]),
        ]
        for row in rows
    ]
    columns = ["attribute", "direction", "prompts", "generated", "real", "generated, non-members", "gain for members"]
    return Table(columns=columns, rows=cells, left=2)


def _populations(results: Results) -> Section:
    facts = results["populations"]
    floor = facts["bias_floor"]
    rows = [
        [
            row["what"],
            Figure(text=f"{row['members']:.3f}", value=row["members"]),
            Figure(text=f"{row['non_members']:.3f}", value=row["non_members"]),
            Figure(text=f"{row['standardised']:+.2f}", value=row["standardised"]),
        ]
        for row in facts["differences"]
    ]
    text = (
        f"Matching: {facts['matching']}; {facts['members']} of {facts['pools']['members']} members and {facts['non_members']} of "
        f"{facts['pools']['non_members']} non-members are used. A classifier that sees the studies, and no model, tells them apart with AUROC "
        f"{floor['value']:.3f} [{floor['low']:.3f}, {floor['high']:.3f}]: the bias floor."
    )
    table = Table(columns=["attribute", "members", "non-members", "standardised difference"], rows=rows)
    return Section(title="Members and non-members", text=text, alarms=results["alarms"], tables=[table])


def _pairs(results: Results, subject: Subject, job: JobFolder) -> list[PictureRow]:
    """The most similar pairs: the generation beside the member whose prompt gave it."""
    rows = []
    studies = subject.studies
    for pair in results["most_similar"]:
        direction = Direction.parse(pair["direction"])
        shards = studies.shards(studies.usable(direction))
        folder = ContentFolder(job.content / "generated")
        made: Any = folder.read_rows(direction, shards, [pair["row"]])[pair["row"]][pair["target"]]
        real: Any = studies.values(pair["target"], [pair["row"]])[0]
        cells = [
            Cell(caption=pair["target"], role="generated", value=made),
            Cell(caption=pair["target"], role="truth", value=real, label="training study"),
        ]
        note = f"{pair['direction']}, {pair['space']}: its distance is {pair['ratio']:.2f} of that to other patients"
        rows.append(PictureRow(title=pair["study_id"], cells=cells, note=note))
    return rows
