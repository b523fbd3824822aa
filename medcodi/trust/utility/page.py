"""The page of a utility study: verdict, curves, exchange rates, arms, comparisons, findings, calibration, notes, methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcodi.pages.charts import Curve, ForestRow, forest_chart, line_chart
from medcodi.pages.page import Figure, Head, Plot, Section, Table, render_page, write_page
from medcodi.trust.utility.card import card
from medcodi.trust.utility.results import methods

Results = Mapping[str, Any]
NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "ece": "calibration error",
    "brier": "Brier score",
    "reciprocal_rank": "mean reciprocal rank",
    "recall_at_1": "recall at 1",
    "recall_at_5": "recall at 5",
    "recall_at_10": "recall at 10",
}
_RATE_TEXT = (
    "The number of new real studies that one added study is worth. 1: as good as a new real study. 0: worth nothing, as a duplicate "
    "should be. Below 0: it cost as much as leaving real studies out. The oracle's curve is that of the arms which add new real "
    "studies; where it does not rise, or rises in fewer than 95 % of the resamples, there is no rate or no interval."
)
_SEEN = "generator's patients (beyond the arm's)"


def write_utility_page(path: Path, results: Results) -> Path:
    """Write the page; returns its path."""
    return write_page(path, render_page(_head(results), list(sections(results))))


def verdict(results: Results) -> list[str]:
    """The results in words, a sentence for each exchange rate and each comparison."""
    test, lines = results["tests"]["test"], []
    for arm, rate in test["exchange"].items():
        if rate["value"] is None:
            lines.append(f"{arm}: no exchange rate, because the oracle's curve does not rise here.")
            continue
        at_least = "at least " if rate["beyond"] else ""
        lines.append(f"{arm}: one added study is worth {at_least}{shown(rate, 2)} new real studies.")
    for row in test["comparisons"]:
        p = "p unknown" if row["p_holm"] is None else f"p = {row['p_holm']:.3f} after Holm"
        lines.append(
            f"{row['arm']} against {row['against']}: {NAMES[results['measure']]} {shown(row, 3, sign=True)}, {p}."
        )
    return lines


def sections(results: Results) -> list[Section]:
    """The parts of the page, in order."""
    test, measure = results["tests"]["test"], results["measure"]
    parts = [
        Section(
            title="Performance",
            plots=_curves(results),
            text=f"Macro {NAMES[measure]} on real test studies. Bars: 95 % intervals over patients and seeds.",
        ),
        Section(title="Exchange rate", text=_RATE_TEXT, plots=_rates(test), tables=[_rate_table(results)]),
        Section(title="Arms", tables=[_arm_table(results, "test"), *_subgroup_tables(results)]),
    ]
    if "external_test" in results["tests"]:
        parts.append(Section(title="Arms on the external test set", tables=[_arm_table(results, "external_test")]))
    if test["comparisons"]:
        parts.append(Section(title="Comparisons", tables=[_comparison_table(results)]))
    if results["config"]["task"] != "retrieval":
        parts.append(Section(title="Findings one by one", tables=[_finding_table(results)], folded=True))
        parts.append(Section(title="Calibration", plots=_calibration(test), folded=True))
    parts.append(Section(title="Notes", text="\n".join(results["notes"]) or "None."))
    for name in results["generators"]:
        rows = [(key.replace("_", " "), str(value)) for key, value in card(results, name).items()]
        parts.append(
            Section(title=f"Card of {name}", tables=[Table(columns=("field", "value"), rows=rows, left=2)], folded=True)
        )
    parts.append(Section(title="Methods", text=methods(results)))
    return parts


def shown(row: Mapping[str, Any], digits: int, *, sign: bool = False) -> str:
    """A value with its interval: ``0.81 [0.78, 0.84]``; – where unknown."""
    if row["value"] is None:
        return "–"
    spread = "" if row["low"] is None else f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return f"{row['value']:{'+' if sign else ''}.{digits}f}{spread}"


def _head(results: Results) -> Head:
    test, config = results["tests"]["test"], results["config"]
    return Head(
        title="Is synthetic data useful?",
        lead=f"{len(config['arms'])} arms, each with the same steps, tested on {test['num_studies']:,} real studies of {test['num_patients']:,} patients.",
        verdict=verdict(results),
        facts=[
            (str(len(config["arms"])), "arms"),
            (f"{config['seeds']} × {config['sampling_seeds']}", "seeds × sampling seeds"),
            (f"{results['protocol']['num_steps']:,}", "steps in every arm"),
            (f"{results['data']['train']['num_studies']:,}", "training studies"),
            (f"{test['num_studies']:,}", "test studies, read once"),
        ],
    )


# ---- charts ----------------------------------------------------------------------------------------------------------
def _curves(results: Results) -> list[Plot]:
    """Performance against the real studies of plain arms; and against the studies added, for each base with several arms."""
    arms, config, measure = results["arms"], results["config"]["arms"], results["measure"]
    test = results["tests"]["test"]["arms"]

    def curve(label: str, names: list[str], key: str, colour: int) -> Curve:
        known = [name for name in names if test[name]["macro"][measure]["value"] is not None]
        rows = [(arms[name][key], test[name]["macro"][measure]) for name in sorted(known, key=lambda n: arms[n][key])]
        bars = [(row["low"], row["high"]) for _, row in rows if row["low"] is not None]
        points = [(x, row["value"]) for x, row in rows]
        return Curve(label, points, colour=colour, bars=bars if len(bars) == len(rows) else ())

    plain = [name for name, arm in config.items() if arm["add"] == "nothing" and not arm["cut"]]
    plots = []
    if len(plain) > 1:
        plots.append(Plot(svg=line_chart("Real studies alone", [curve("real", plain, "num_real", 0)], "real studies")))
    bases: dict[tuple[Any, ...], list[str]] = {}
    for name, arm in config.items():
        bases.setdefault((arm["real"], arm["cut"], arm["cut_to"]), []).append(name)
    for (real, cut, cut_to), names in bases.items():
        start = [name for name in names if config[name]["add"] == "nothing"][:1]
        kinds: dict[str, list[str]] = {}
        for name in names:
            if config[name]["add"] != "nothing":
                label = f"{config[name]['add']} {arms[name]['generator'] or ''}".strip()
                kinds.setdefault(label if _is_usual(config[name]) else name, []).append(name)
        if not kinds:
            continue
        curves = [curve(kind, [*start, *own], "num_added", colour) for colour, (kind, own) in enumerate(kinds.items())]
        title = f"{real:.3g} of the real patients" + (f", {cut} cut to {cut_to:.3g}" if cut else "")
        plots.append(Plot(svg=line_chart(title, curves, "studies added")))
    return plots


def _is_usual(arm: Mapping[str, Any]) -> bool:
    """Whether an arm belongs on a common curve: as others of its kind, but for the number added."""
    odd = ("filter", "shuffle_labels", "pretrain", "loss_weights")
    return arm["augmentation"] == "standard" and arm["labels"] == "prompt" and not any(arm[name] for name in odd)


def _rates(test: Results) -> list[Plot]:
    rows = [
        ForestRow.of(f"{arm}{' (at least)' if rate['beyond'] else ''}", rate)
        for arm, rate in test["exchange"].items()
        if rate["value"] is not None
    ]
    return [Plot(svg=forest_chart("New real studies per added study", rows, reference=1.0))] if rows else []


def _calibration(test: Results) -> list[Plot]:
    """Reliability of every arm, in per cent."""
    curves = [
        Curve(arm, [(round(100 * b["predicted"]), 100 * b["observed"]) for b in figures["calibration"]], colour=number)
        for number, (arm, figures) in enumerate(test["arms"].items())
    ]
    diagonal = Curve("calibrated", [(0, 0.0), (100, 100.0)], colour=6, dash=2)
    return [Plot(svg=line_chart("Observed share, %", [diagonal, *curves], "predicted probability, %"))]


# ---- tables ----------------------------------------------------------------------------------------------------------
def _seen(facts: Mapping[str, Any]) -> str:
    """Patients that the arm's generator saw, and how many of them the arm itself does not have."""
    if facts["generator"] is None:
        return "–"
    seen, beyond = facts["generator_patients"], facts["generator_patients_beyond"]
    return "not known" if seen is None else f"{seen:,} (+{beyond:,})"


def _arm_table(results: Results, name: str) -> Table:
    test, rows = results["tests"][name], []
    measures = list(next(iter(test["arms"].values()))["macro"])
    for arm, figures in test["arms"].items():
        facts = results["arms"][arm]
        macro = [Figure.of(figures["macro"][measure]) for measure in measures]
        rows.append([arm, f"{facts['num_real']:,}", f"{facts['num_added']:,}", _seen(facts), *macro])
    columns = ["arm", "real", "added", _SEEN, *(NAMES[measure] for measure in measures)]
    return Table(columns=columns, rows=rows, caption=f"Macro figures on {test['num_studies']:,} studies")


def _subgroup_tables(results: Results) -> list[Table]:
    """The worst subgroup of every arm, where subgroups are known."""
    arms = results["tests"]["test"]["arms"]
    known = {arm: figures["worst_subgroup"] for arm, figures in arms.items() if figures["worst_subgroup"] is not None}
    rows = [[arm, worst["group"], Figure.of(worst)] for arm, worst in known.items()]
    columns, caption = ("arm", "worst subgroup", NAMES[results["measure"]]), "The worst of the subgroups by sex and age"
    return [Table(columns=columns, rows=rows, left=2, caption=caption)] if rows else []


def _rate_table(results: Results) -> Table:
    rows = []
    for arm, rate in results["tests"]["test"]["exchange"].items():
        facts = results["arms"][arm]
        counts = [f"{facts['num_real']:,}", f"{rate['num_added']:,}", _seen(facts)]
        rows.append([arm, *counts, Figure.of(rate, 2), "yes" if rate["beyond"] else "no", f"{rate['resolved']:.0%}"])
    columns = ("arm", "real", "added", _SEEN, "exchange rate", "beyond the curve", "resamples with a rate")
    return Table(columns=columns, rows=rows)


def _comparison_table(results: Results) -> Table:
    rows = []
    for row in results["tests"]["test"]["comparisons"]:
        p_values = (row["p_value"], row["p_holm"])
        cells = [Figure(text="–" if p is None else f"{p:.4f}", value=p) for p in p_values]
        rows.append([row["arm"], row["against"], _seen(results["arms"][row["arm"]]), Figure.of(row), *cells])
    columns = ("arm", "against", _SEEN, f"difference of {NAMES[results['measure']]}", "p", "p (Holm)")
    return Table(columns=columns, rows=rows, left=2)


def _finding_table(results: Results) -> Table:
    test = results["tests"]["test"]
    rows = [
        [
            finding,
            f"{cases:,}",
            *(Figure.of(figures["findings"][finding]["auroc"]) for figures in test["arms"].values()),
        ]
        for finding, cases in test["cases"].items()
    ]
    return Table(columns=("finding", "cases", *test["arms"]), rows=rows, caption="AUROC")
