"""Figures of quality and speed in README and docs, written from results files by `python tools/figures.py [--write]`.

A document marks each place, a table or a few words:  <!-- figures: FILE KEY [DIRECTION ...] -->...<!-- /figures -->
FILE is a JSON under the repository's root (not there: "not measured"), KEY an entry of TABLES or WORDS. Without --write, a place that differs is named, and the
exit code is 1. The results.json of any evaluation fits; of several systems, tables name each.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(
    r"<!-- figures: (?P<file>\S+) (?P<key>\w+)(?P<names>[^\n]*?) -->(?P<text>.*?)<!-- /figures -->", re.S
)
Row = dict[str, Any]  # of a table: its first cells by name, and the figures that its other cells show


# ---- cells -----------------------------------------------------------------------------------------------------------
def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def bounds(figure: Row | None, digits: int = 2) -> str:
    """``0.84 [0.82, 0.85]``."""
    value, low, high = (number((figure or {}).get(key), digits) for key in ("value", "low", "high"))
    return value if low == "–" else f"{value} [{low}, {high}]"


def beside(row: Row, names: str, key: str, other: str, digits: int = 2, scale: float = 1.0) -> str:
    """``0.26 (0.10)``, or ``0.92 / 0.95 (0.96 / 0.97)`` of several metrics."""
    if any(name not in row for name in names.split()):
        return "–"
    first, second = (
        " / ".join(
            "–" if row[name][each] is None else number(scale * row[name][each], digits) for name in names.split()
        )
        for each in (key, other)
    )
    return f"{first} ({second})"


def pretty(direction: str) -> str:
    """``report → frontal + lateral``."""
    prompts, targets = direction.split("->")
    return f"{prompts or 'nothing'} → {targets}".replace("+", " + ")


# ---- rows ------------------------------------------------------------------------------------------------------------
def directions(results: Row) -> Iterator[Row]:
    """Every direction of every system, with its scores."""
    for system, entry in results["systems"].items():
        for name, scores in entry["directions"].items():
            first = {"direction": pretty(name), **({"system": system} if len(results["systems"]) > 1 else {})}
            yield {**first, **scores, **scores["primary"]}


def targets(results: Row, metric: str) -> Iterator[Row]:
    """Every target for which a metric was computed."""
    for row in directions(results):
        each = ({**row, "target": name, **entry["metrics"]} for name, entry in row["targets"].items())
        yield from (entry for entry in each if metric in entry)


def agreements(results: Row) -> Iterator[Row]:
    """Every pair of targets of one generation, and metric."""
    for row in directions(results):
        for pair, entry in row["coherence"].items():
            for name in ("finding_kappa", "retrieval_recall_at_10", "geometry_correlation"):
                if name in entry["metrics"]:
                    yield {**row, "pair": pair, "metric": name, **entry["metrics"][name]}


def orders(results: Row) -> Iterator[Row]:
    """Every pair of targets of one generation, order after order."""
    for row in sorted(directions(results), key=lambda row: row["direction"]):
        for pair, entry in row["coherence"].items():
            yield {**row, "system": row["system"].rpartition("-")[2], "pair": pair, **entry["metrics"]}


def better_single(results: Row) -> Iterator[Row]:
    """Every direction with two prompts against the better single one."""
    for test in results["comparisons"]["multi_prompt"]:
        if test["target"] == "all" and test.get("against_better"):
            yield {"two prompts": pretty(test["direction"]), **test, "direction": None}


def only_test(results: Row) -> Row:
    """The scores of a utility study's first test set."""
    return next(iter(results["tests"].values()))


def arms(results: Row) -> Iterator[Row]:
    """Every arm of a utility study, with its scores, exchange rate and comparison."""
    test = only_test(results)
    compared = {row["arm"]: {"against": row["against"], "p_holm": row["p_holm"]} for row in test["comparisons"]}
    for name, scores in test["arms"].items():
        yield {
            "arm": name,
            **results["arms"][name],
            **scores,
            "exchange": test["exchange"].get(name),
            **compared.get(name, {}),
        }


def peers(results: Row) -> Iterator[Row]:
    """Ours beside every peer of benchmarks/peers.py."""
    for name, part in results["parts"].items():
        if "skipped" in part:
            yield {"comparison": name, "peer": f"not measured: {part['skipped']}"}
            continue
        times = part["times"]
        ours = next(times[each] for each in times if each.startswith("ours"))
        for peer in (each for each in times if not each.startswith("ours")):
            row = {"comparison": part["what"], "peer": peer, "ours": ours["seconds"], "theirs": times[peer]["seconds"]}
            yield {**row, "ratio": part["ratios"][peer], **{key: part[key] for key in ("goal", "turns", "machine")}}


def passes(results: Row) -> Iterator[Row]:
    """Every way to run a training pass of benchmarks/denoiser.py, and the matrix product that is its limit."""
    for part in results["rounds"]:
        ours = part["times"]["ours"]["seconds"]["median"]
        for name, row in part["times"].items():
            if name == "matrix product":
                row = {**row, "share": f"{number(part['peak_tflops'], 3)} TFLOP/s"}
            else:
                ratio = None if name == "ours" else ours / row["seconds"]["median"]
                row = {**row, "share": f"{100 * row['share_of_peak']:.0f} %", "ratio": ratio}
            yield {"comparison": f"{part['precision']}: {name}", **row}


def spread(value: Row | None, unit: str = " s") -> str:
    """``1.20 s (1.10 to 1.40)``."""
    if value is None:
        return "–"
    digits = 2 if value["median"] >= 0.1 else 4
    return f"{number(value['median'], digits)}{unit} ({number(value['min'], digits)} to {number(value['max'], digits)})"


def load(results: Row) -> str:
    """What a measurement ran on, and what ran beside it."""
    where = results["machine"]
    return f"{where['cpu']}, {where['threads']} thread{'s' * (where['threads'] > 1)}, load {where['load_average']:.0f}"


# ---- tables: rows, and columns as functions of a row -----------------------------------------------------------------
TABLES = {
    "findings": (lambda results: (row for row in directions(results) if row["prompts"]), {
        "finding macro F1": lambda r: bounds(r["model"]),
        "prompts shuffled": lambda r: number(r["shuffled"]["value"]),
        "difference": lambda r: bounds(r["difference"]),
        "ceiling": lambda r: number(r["ceiling"]),
        "share of ceiling": lambda r: bounds({k: r[f"fraction_{k}"] for k in ("low", "high")} | {"value": r["fraction_of_ceiling"]}),
        "legible in the prompt": lambda r: number(r["prompt_reader"]["value"]),
    }),
    "two_prompts": (better_single, {
        "finding F1": lambda r: number(r["first"], 3),
        "better single prompt": lambda r: pretty(r["against"]),
        "its F1": lambda r: number(r["second"], 3),
        "difference": lambda r: bounds(r["difference"], 3),
        "no loss shown": lambda r: "yes" if r["not_worse"] else "no",
    }),
    "images": (lambda results: targets(results, "frechet/demo"), {
        "target": lambda r: r["target"],
        "side right (real)": lambda r: bounds(r["side_accuracy"]) + f" ({number(r['side_accuracy']['ceiling'])})" if "side_accuracy" in r else "–",
        "Fréchet distance, same studies": lambda r: bounds(r["frechet/demo"]),
        "halves (ceiling)": lambda r: beside(r, "frechet/demo", "halves", "ceiling"),
        "kernel distance × 10³: halves (ceiling)": lambda r: beside(r, "kernel/demo", "halves", "ceiling", scale=1000),
        "precision / recall: halves (ceiling)": lambda r: beside(r, "precision/demo recall/demo", "halves", "ceiling"),
        "density / coverage: halves (ceiling)": lambda r: beside(r, "density/demo coverage/demo", "halves", "ceiling"),
        "MS-SSIM between patients (real)": lambda r: beside(r, "ms_ssim", "value", "ceiling"),
        "PSNR to the truth (another patient)": lambda r: beside(r, "psnr", "value", "floor", 1),
    }),
    "reports": (lambda results: targets(results, "bleu_1"), {
        "side right": lambda r: bounds(r.get("side_accuracy")),
        **{
            name: lambda r, key=name.lower().replace("-", "_"): beside(r, key, "value", "floor", 3)
            for name in ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
        },
    }),
    "obeyed": (lambda results: targets(results, "obedience_r/age"), {  # of a model with records
        "target": lambda r: r["target"],
        "finding macro F1": lambda r: bounds(r["model"]),
        "sex right (real films)": lambda r: beside(r, "obedience_accuracy/sex", "value", "ceiling"),
        "age, r": lambda r: bounds(r["obedience_r/age"]) + f" ({number(r['obedience_r/age']['ceiling'])})",
        "body-mass index, r": lambda r: bounds(r["obedience_r/bmi"]) + f" ({number(r['obedience_r/bmi']['ceiling'])})",
        "shares of real films": lambda r: " / ".join(
            number(r[name]["value"] / r[name]["ceiling"]) for name in ("obedience_accuracy/sex", "obedience_r/age", "obedience_r/bmi")
        ),
    }),
    "read_fields": (lambda results: targets(results, "record_r/age"), {
        "sex right (annotator)": lambda r: beside(r, "record_accuracy/sex", "value", "ceiling"),
        **{
            f"{title}, r": lambda r, key=f"record_r/{name}": beside(r, key, "value", "ceiling")
            for name, title in (("age", "age"), ("bmi", "body-mass index"), ("bnp", "BNP"), ("crp", "CRP"),
                                ("oxygen_saturation", "oxygen saturation"), ("haemoglobin", "haemoglobin"))
        },
    }),
    "relations": (lambda results: (  # of benchmarks/record.py
        {**row, "finding": f"{row['value'].replace('_', ' ')} and {row['finding']}"} for row in results["relations"]
    ), {
        "true": lambda r: bounds(r["true"]),
        "from report": lambda r: bounds(r["report->record"]),
        "from both films": lambda r: bounds(r["frontal+lateral->record"]),
        "from all three": lambda r: bounds(r["frontal+lateral+report->record"]),
    }),
    "edits": (lambda results: ({"edit": row["what"], **row} for row in results["rows"]), {
        "film": lambda r: r["film"],
        "asked": lambda r: number(r.get("asked")),
        "F1": lambda r: number(r.get("F1")),
        "others κ": lambda r: number(r.get("others")),
        "geometry r": lambda r: number(r.get("geometry")),
        "PSNR to the original (the autoencoder's round trip)": lambda r: (
            beside({"psnr": r}, "psnr", "psnr", "round_trip", 1) if "round_trip" in r else number(r["psnr"], 1)
        ),
    }),
    "limits": (lambda results: ({**row, "limit": row["title"]} for row in results["limits"]), {  # of an audit
        "allowed": lambda r: f"{r['allowed']:g}",
        "worst figure": lambda r: f"{r['value']:.2g}" if r.get("low") is None else bounds(r, 3),
        "of": lambda r: (r.get("of") or "–").replace("'", "").replace("->", " → "),
        "outcome": lambda r: r["outcome"],
    }),
    "attacks": (lambda results: iter(results["membership"]["attacks"]), {
        "target": lambda r: r["target"],
        "context": lambda r: r["context"],
        "AUROC": lambda r: bounds(r["auroc"], 3),
        "p, not adjusted": lambda r: f"{r['auroc']['p_value']:.1g}",
    }),
    "arms": (arms, {  # of a utility study
        "real": lambda r: r["num_real"],
        "added": lambda r: r["num_added"] or "–",
        "generator's patients beyond": lambda r: f"{r['generator_patients_beyond']:,}" if r.get("generator_patients_beyond") else "–",
        "AUROC": lambda r: bounds(r["macro"]["auroc"], 3),
        "AUPRC": lambda r: number(r["macro"]["auprc"]["value"], 3),
        "F1": lambda r: number(r["macro"]["f1"]["value"], 3),
        "calibration error": lambda r: number(r["macro"]["ece"]["value"], 3),
        "worst of sex × age": lambda r: f"{number(r['worst_subgroup']['value'], 3)} ({r['worst_subgroup']['group']})",
        "new real studies that one added is worth": lambda r: bounds(r["exchange"]),
        "p against": lambda r: f"{r['p_holm']:.2g} ({r['against']})" if "against" in r else "–",
    }),
    "tunings": (lambda results: ({"fine-tuned": name, **row} for name, row in results["ways"].items()), {  # of benchmarks/private.py
        "finding F1 at the site": lambda r: bounds(r["finding_f1"]["model"], 3),
        "of the weights": lambda r: f"{100 * r['share_of_weights']:.1f} %" if "share_of_weights" in r else "–" if "training_cpu_seconds" not in r else "all",
        "processor seconds of training": lambda r: number(r.get("training_cpu_seconds"), 0),
        "ε": lambda r: "–" if not r.get("promise") else "∞" if r["promise"]["epsilon"] is None else number(r["promise"]["epsilon"]),
    }),
    "arms_by_finding": (lambda results: (
        {"finding": name, **{arm: row["findings"][name]["auroc"] for arm, row in only_test(results)["arms"].items()}}
        for name in only_test(results)["arms"]["real"]["findings"] if "/" not in name
    ), {
        arm: lambda r, arm=arm: number(r[arm]["value"], 3)
        for arm in ("real", "synthetic-only", "quarter", "quarter-duplicates-5", "quarter-synthetic-5", "quarter-oracle-5", "cut", "cut-synthetic")
    }),
    "orders": (orders, {
        "pair": lambda r: r["pair"],
        "κ of findings (real pairs)": lambda r: bounds(r["finding_kappa"]) + f" ({number(r['finding_kappa']['ceiling'])})",
        "geometry r (real pairs)": lambda r: beside(r, "geometry_correlation", "value", "ceiling"),
        "found at rank ≤ 10 (real pairs)": lambda r: beside(r, "retrieval_recall_at_10", "value", "ceiling"),
        "finding F1 of both": lambda r: bounds(r["model"]) if r["prompts"] else "–",
        "Fréchet halves ÷ ceiling": lambda r: " / ".join(
            number(m["frechet/demo"]["halves"] / m["frechet/demo"]["ceiling"], 1)
            for m in (t["metrics"] for t in r["targets"].values()) if "frechet/demo" in m
        ),
    }),
    "peers": (peers, {
        "peer": lambda r: r["peer"],
        "ours": lambda r: spread(r.get("ours")),
        "the peer": lambda r: spread(r.get("theirs")),
        "ours ÷ peer, by turns": lambda r: spread(r.get("ratio"), ""),
        "figure to reach": lambda r: f"≤ {number(r['goal'])}" if r.get("goal") else "–",
        "N, machine": lambda r: f"{r['turns']}; {load(r)}" if "machine" in r else "–",
    }),
    "passes": (passes, {
        "seconds": lambda r: spread(r["seconds"]),
        "processor seconds": lambda r: number(r["cpu_seconds"]["median"]),
        "ours ÷ this": lambda r: number(r.get("ratio")),
        "share of the product's rate": lambda r: r["share"],
    }),
    "coherence": (agreements, {
        "pair": lambda r: r["pair"],
        "metric": lambda r: r["metric"],
        "generated": bounds,
        "real pairs": lambda r: number(r["ceiling"]),
        "share": lambda r: number(r["share_of_ceiling"]),
    }),
}  # fmt: skip


def table(source: Any, columns: Row, results: Row) -> str:
    """A Markdown table between empty lines; it begins with what each row is called."""
    rows = list(source(results))
    names = (
        "comparison",
        "fine-tuned",
        "edit",
        "two prompts",
        "limit",
        "attack",
        "arm",
        "finding",
        "direction",
        "system",
    )
    first = [name for name in names if rows[0].get(name)]
    if "two prompts" in first and len(results["systems"]) == 1:
        first.remove("system")
    cells = [[*(row[name] for name in first), *(str(cell(row)) for cell in columns.values())] for row in rows]
    lines = [f"| {' | '.join(line)} |" for line in ([*first, *columns], *cells)]
    return "\n".join(["\n", lines[0], "|" + "---|" * (len(first) + len(columns)), *lines[1:], "\n"])


# ---- words -----------------------------------------------------------------------------------------------------------
SPANS = {  # of a direction's scores
    "share": lambda s: [s["primary"]["fraction_of_ceiling"]],
    "sides": lambda s: [t["metrics"]["side_accuracy"]["value"] for t in s["targets"].values() if "side_accuracy" in t["metrics"]],
    "halves": lambda s: [t["metrics"]["frechet/demo"]["halves"] for t in s["targets"].values() if "frechet/demo" in t["metrics"]],
    "agreement": lambda s: [c["metrics"]["finding_kappa"]["share_of_ceiling"] for c in s["coherence"].values()],
}  # fmt: skip


def words(key: str, results: Row, names: list[str]) -> str:
    """``0.87 to 0.94`` over the named directions of the first system, or a sentence."""
    if key == "distances":  # of benchmarks/frechet_sanity.py
        rows = {name: row["frechet"] for name, row in results["rows"].items()}
        halves = rows.pop("real half - other half")
        others = "; ".join(f"{name.replace(' - ', ' against ')} {value:.3g}" for name, value in rows.items())
        return f"two halves of the real frontals {number(halves['mean'])} [least {number(halves['min'])}, most {number(halves['max'])}]; {others}"
    if key == "classifier":  # macro F1 on its test studies, without sides
        views = {
            view: [row["f1"] for name, row in rows.items() if "/" not in name and row["f1"] is not None]
            for view, rows in results["ceiling"].items()
        }
        return " and ".join(
            f"{sum(values) / len(values):.3f} on real held-out {view}s" for view, values in views.items()
        )
    if key == "machine":
        return f"`{results['command']}`, {load(results)}"
    scored = next(iter(results["systems"].values()))["directions"]
    if key == "verdict":
        primary = [scores["primary"] for scores in scored.values() if scores["prompts"]]
        shares = [100 * p["fraction_of_ceiling"] for p in primary]
        above = sum(p["difference"]["low"] > 0 for p in primary)
        which = f"all {above}" if above == len(primary) else f"{above} of {len(primary)}"
        return f"beats the floor in {which} directions, at {min(shares):.0f} to {max(shares):.0f} % of its ceiling"
    shown = sorted(number(value) for name in names for value in SPANS[key](scored[name]))
    return shown[0] if shown[0] == shown[-1] else f"{shown[0]} to {shown[-1]}"


# ---- documents -------------------------------------------------------------------------------------------------------
def written(place: re.Match[str]) -> str:
    """A place with what its results file has."""
    path, key = ROOT / place["file"], place["key"]
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
        text = table(*TABLES[key], results) if key in TABLES else words(key, results, place["names"].split())
    else:
        text = "not measured"
    return f"<!-- figures: {place['file']} {key}{place['names']} -->{text}<!-- /figures -->"


def main(arguments: list[str]) -> int:
    """Compare, or write."""
    differ = 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        changed = [place for place in PLACE.finditer(text) if written(place) != place[0]]
        if "--write" in arguments:
            page.write_text(PLACE.sub(written, text), encoding="utf-8")
            continue
        differ += len(changed)
        for place in changed:
            print(f"{page}: {place['key']} is not what {place['file']} has. Fix: python tools/figures.py --write")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
