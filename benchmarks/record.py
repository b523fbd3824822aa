"""The record as a fourth modality: what it costs beside a film, and whether generated laboratory values follow the findings as true ones do.

    python benchmarks/record.py --model runs/demo-record/6-join/model [--studies 1000] [--batch 50] [--guidance 1]

Cost: a pass of the record's denoiser against one of the frontal's, 32 rows each, in turns: operations, and medians of CPU time.
Relations: records of held-out phantoms are generated from report, from both films, and from all three; each value is regressed on the grades of
the study's findings (ordinary least squares, of studies that have the value), and so is the true one. What is compared is each
coefficient that the phantom has by construction (docs/DATA.md), on the same resamples of patients. Writes benchmarks/results/record.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measuring import machine, report
from torch.utils.flop_counter import FlopCounterMode

from medcodi.data.loading import DataConfig
from medcodi.data.sources.phantom.patients import GRADES
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.evaluation.systems.systems import generate_studies
from medcodi.metrics.bootstrap import Statistic, bootstrap_interval, paired_difference, resampling_weights
from medcodi.metrics.fields import encoded_records
from medcodi.model import MedCoDi
from medcodi.model.generation_config import GenerationConfig
from medcodi.networks.attention import Context
from medcodi.study import Direction, Finding

DIRECTIONS = ("report->record", "frontal+lateral->record", "frontal+lateral+report->record")
# Value -> what it is regressed on: a finding's grade, or with "!" whether it is there. The phantom has a relation to each of these;
# haemoglobin is independent of everything.
RELATIONS = {
    "bnp": ("Cardiomegaly", "Edema"),
    "crp": ("Consolidation!",),
    "leucocytes": ("Consolidation!",),
    "temperature": ("Consolidation!",),
    "oxygen_saturation": ("Consolidation!", "Edema", "Pneumothorax"),
    "haemoglobin": ("Cardiomegaly", "Edema", "Consolidation!"),
}
RESAMPLES = 1000


# ---- cost ------------------------------------------------------------------------------------------------------------
def cost(model: MedCoDi, rows: int = 32, turns: int = 15) -> dict[str, Any]:
    """The record's denoiser beside the frontal's, the same prompts' tokens."""
    latents = {name: torch.randn(rows, *model.latent_shape(name)) for name in ("frontal", "record")}
    context = Context(torch.randn(rows, 40, model.config.prompt_encoders.embed_dim), torch.zeros(rows, 40))
    t = torch.full((rows,), 500)
    seconds: dict[str, list[float]] = {name: [] for name in latents}
    operations = {}
    with torch.no_grad():
        for name, z in latents.items():
            with FlopCounterMode(display=False) as counter:
                model.denoisers[name](z, t, context)
            operations[name] = counter.get_total_flops()
        for _ in range(turns):
            for name, z in latents.items():
                began = time.process_time()
                model.denoisers[name](z, t, context)
                seconds[name].append(time.process_time() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [own / film for own, film in zip(seconds["record"], seconds["frontal"], strict=True)]
    return {
        "operations": operations["record"] / operations["frontal"],
        "time": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "N": turns},
        "cpu_seconds": medians,
    }


# ---- relations -------------------------------------------------------------------------------------------------------
def grades(findings: Sequence[Sequence[Finding]], names: Sequence[str]) -> np.ndarray:
    """``[N, 1 + K]``: ones, then the grade of each finding, or whether it is there."""
    columns = [np.ones(len(findings))]
    for name in names:
        label, present_only = name.rstrip("!"), name.endswith("!")
        own = [{f.label: GRADES[f.size] for f in each if f.state == "positive"} for each in findings]
        values = np.array([each.get(label, 0.0) for each in own])
        columns.append(np.minimum(values, 1.0) if present_only else values)
    return np.stack(columns, 1)


def coefficient(design: np.ndarray, values: np.ndarray, column: int) -> Statistic:
    """One coefficient of weighted least squares over the studies that have the value, as a function of weights ``[R, N]``."""
    known = ~np.isnan(values)
    x, y = design[known], values[known]

    def of(weights: np.ndarray) -> np.ndarray:
        w = weights[:, known]
        left = np.einsum("rn,ni,nj->rij", w, x, x)
        right = np.einsum("rn,ni,n->ri", w, x, y)
        return (np.linalg.pinv(left, hermitian=True) @ right[..., None])[:, column, 0]  # a resample may lack a finding

    return of


def relations(
    model: MedCoDi, held: HeldOutStudies, batch: int, guidance: float | None, seed: int = 0
) -> list[dict[str, Any]]:
    """Each relation, of the true records and of those generated in each direction."""
    fields = model.config.records.fields
    names = list(fields)
    truth = encoded_records(fields, [study.contents["record"] for study in held.studies])  # pyright: ignore
    weights = resampling_weights(held.patients, RESAMPLES, 0)
    generated = {}
    for text in DIRECTIONS:
        direction, records = Direction.parse(text), []
        for start in range(0, len(held), batch):
            places = range(start, min(start + batch, len(held)))
            records += generate_studies(
                model, direction, held, list(places), GenerationConfig(guidance_scale=guidance), seed
            )["record"]
        generated[text] = encoded_records(fields, [each[0] for each in records])
        print(f"{text}: {len(records)} records", flush=True)

    rows = []
    for value, findings in RELATIONS.items():
        design, column = grades(held.findings, findings), names.index(value)
        for place, finding in enumerate(findings, start=1):
            true = coefficient(design, truth[:, column], place)
            row: dict[str, Any] = {"value": value, "finding": finding.rstrip("!")}
            row["true"] = bootstrap_interval(true, weights).to_dict()
            for text, values in generated.items():
                own = coefficient(design, values[:, column], place)
                row[text] = bootstrap_interval(own, weights).to_dict()
                row[f"{text} minus true"] = paired_difference(own, true, weights).to_dict()
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="a model with records")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = MedCoDi.from_pretrained(arguments.model).eval()
    model.load_components(list(model.components()))
    options = {"num_studies": arguments.studies, "version": 2}
    dataset = DataConfig(source="phantom", split="test", image_size=model.config.image_size, **options).build()
    began = time.process_time()
    results = {
        "command": "python benchmarks/record.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "studies": arguments.studies,
        "cost": cost(model),
        "relations": relations(model, HeldOutStudies(dataset), arguments.batch, arguments.guidance),
    }
    results["cpu_seconds"] = round(time.process_time() - began, 1)

    def shown(figure: dict[str, float]) -> str:
        return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"

    header = ["value", "finding", "true", *DIRECTIONS]
    table = [[r["value"], r["finding"], *(shown(r[key]) for key in header[2:])] for r in results["relations"]]
    print(results["cost"])
    report("record", results, header, table, write=not arguments.no_write)


if __name__ == "__main__":
    main()
