"""The pool of what a model or anybody generated: labels of the prompts, films and reports, and what an annotator reads in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.data.generated_files import SYNTHESIS_TABLE, GeneratedFile, list_generated, read_generated
from medcodi.data.images import fit_square
from medcodi.data.tables import read_header, read_rows
from medcodi.errors import DataError, did_you_mean
from medcodi.evaluation.annotators.classifier import TARGETS, FindingClassifier, target_truth
from medcodi.metrics.labeler import label_report, labels_from_findings
from medcodi.modality import MODALITIES, names
from medcodi.study import CHEXPERT_LABELS, Content, Direction, Study
from medcodi.trust.utility.arms import agrees
from medcodi.trust.utility.config import GeneratorConfig
from medcodi.trust.utility.pools import Pool, PoolBuilder
from medcodi.trust.utility.synthetic.prompts import Prompt

_TOGETHER = 64  # synthetic studies read and annotated at once


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of one synthetic study: its source, the prompt's truth ``[K]``, and the contents that prompted."""

    source: int  # row of the training pool; -1 where a table alone labels it
    truth: np.ndarray  # float32 [K]
    report: str = ""  # that prompted


def labels_of_prompts(prompts: Sequence[Prompt], train: Pool, findings: Sequence[str]) -> dict[str, Labels]:
    """Id -> labels of what a model generated for prompts: those of the training study, or those that a mixed report names."""
    return {
        prompt.id: Labels(
            source=prompt.row,
            truth=truth_of_report(prompt.report, findings) if prompt.is_mixed else train.truth[prompt.row].numpy(),
            report=prompt.report,
        )
        for prompt in prompts
    }


def labels_of_files(
    path: Path, train: Pool, findings: Sequence[str], ids: Sequence[str], held_out: Mapping[str, str]
) -> dict[str, Labels]:
    """Id -> labels of what anybody generated: those of the training study of the same id, else of the table's columns.

    Args:
        path: Folder or table.
        train: Training pool.
        findings: Of its columns.
        ids: Of the synthetic studies.
        held_out: Study id -> the set that judges with it; a study that was prompted by one of them is refused.

    Raises:
        DataError: If a study was prompted by a patient that judges, or has no labels.
    """
    row_of, table = {study: row for row, study in enumerate(train.ids)}, _table_labels(path)
    if leaked := [study for study in ids if study in held_out]:
        raise DataError(
            f"{path}: {len(leaked):,} of {len(ids):,} synthetic studies were prompted by {held_out[leaked[0]]} studies, such as {leaked[0]!r}",
            expected="prompts of training patients only",
            fix="generate for the training split",
        )
    result, without = {}, []
    for study in ids:
        if (row := row_of.get(study)) is not None:
            result[study] = Labels(source=row, truth=train.truth[row].numpy(), report=train.reports[row])
        elif study in table:
            labelled = Study(study_id=study, patient_id=study, labels=table[study])
            result[study] = Labels(source=-1, truth=target_truth(labelled, findings))
        else:
            without.append(study)
    if without:
        raise DataError(
            f"{path}: {len(without):,} of {len(ids):,} synthetic studies have no labels, such as {without[0]!r}",
            expected="the ids of training studies, or a table with CheXpert's columns",
            fix=did_you_mean(without[0], train.ids[:50]),
        )
    return result


def _table_labels(path: Path) -> dict[str, dict[str, float]]:
    """Study id -> labels of a table's CheXpert columns; an empty cell of a labelled row means absent."""
    table = path / SYNTHESIS_TABLE if path.is_dir() else path
    if not table.is_file() or not set(CHEXPERT_LABELS) & set(read_header(table)):
        return {}
    labels = {}
    for row in read_rows(table):
        cells = {label: row.cells.get(label, "") for label in CHEXPERT_LABELS}
        if any(cells.values()):
            try:
                values = {label: float(cell or 0) for label, cell in cells.items()}
            except ValueError as error:
                raise DataError(f"{table}, line {row.line}: {error}", expected="1, 0, -1 or nothing") from None
            labels[row.cells.get("id") or row.cells.get("study_id", "")] = values
    return labels


def truth_of_report(report: str, findings: Sequence[str]) -> np.ndarray:
    """Findings that the labeler reads in a report: float32 ``[K]`` of 0, 1 and NaN (uncertain); not mentioned is absent."""
    read = label_report(report)
    labels = dict.fromkeys(CHEXPERT_LABELS, 0.0) | labels_from_findings(read)
    return target_truth(Study(study_id="report", patient_id="report", labels=labels, findings=read), findings)


def read_synthetic(
    path: Path,
    generator: GeneratorConfig,
    labels: Callable[[Sequence[str]], Mapping[str, Labels]],
    train: Pool,
    builder: PoolBuilder,
    annotator: FindingClassifier | None,
) -> tuple[Pool, dict[str, Any]]:
    """Read synthetic studies into a pool, annotated again; returns it and figures for the record.

    Args:
        path: Folder or table, as :func:`medcodi.data.generated_files.list_generated` reads them.
        generator: Whose.
        labels: Ids -> labels of each.
        train: Training pool, whose films and reports prompted.
        builder: Empty.
        annotator: Reads films again; None: reports are read again by the labeler.
    """
    direction = Direction.parse(generator.direction)
    listing = list_generated(path, [direction])[direction]
    studies = list(listing)
    label_of, sizes = labels(studies), Counter()
    for start in range(0, len(studies), _TOGETHER):
        ids = studies[start : start + _TOGETHER]
        contents = {study: _contents(listing[study], sizes) for study in ids}
        reread = _read_again(contents, builder, annotator)
        for study in ids:
            known = label_of[study]
            films = {
                name: fit_square(value, builder.size) if isinstance(value, np.ndarray) else value
                for name, value in contents[study].items()
            }
            prompted = {name: known.report for name in names("text") if name in direction.prompts and known.report}
            patient = train.patients[known.source] if known.source >= 0 else study
            builder.add(
                Study(study_id=study, patient_id=patient, contents={**prompted, **films}),
                known.source,
                known.truth,
                reread[study],
            )
    pool = builder.build(f"what {path} holds")
    groups = tuple(train.groups[source] if source >= 0 else "" for source in pool.sources.tolist())
    figures = {"sizes": dict(sorted(sizes.items())), "num_left_out": builder.num_left_out, "direction": str(direction)}
    return replace(pool, groups=groups), figures


def _contents(files: Mapping[str, GeneratedFile], sizes: Counter[str]) -> dict[str, Content]:
    values: dict[str, Content] = {}
    for name, file in files.items():
        if MODALITIES[name].kind == "table":
            continue
        content = read_generated(file, name)
        assert isinstance(content.value, np.ndarray | str)  # no record
        values[name] = content.value
        if content.size:
            sizes[content.size] += 1
    return values


def _read_again(
    contents: Mapping[str, Mapping[str, Any]], builder: PoolBuilder, annotator: FindingClassifier | None
) -> dict[str, np.ndarray]:
    """Study -> findings that the annotator reads in what was generated, float32 ``[K]``; NaN where it does not judge."""
    result = {study: np.full(len(builder.findings), np.nan, np.float32) for study in contents}
    if annotator is None:
        for study, values in contents.items():
            reports = [values[name] for name in names("text") if values.get(name)]
            if reports:
                result[study] = truth_of_report(reports[0], builder.findings)
        return result
    # Over the views that it judges, the mean distance from the threshold decides.
    margins: dict[str, list[np.ndarray]] = {study: [] for study in contents}
    for view in [name for name in builder.views if name in annotator.config.modalities]:
        shown = [study for study, values in contents.items() if view in values]
        films = [fit_square(contents[study][view], annotator.config.image_size) for study in shown]
        probabilities = annotator.predict(films, view)[0] if films else []
        judged, targets = annotator.judged(view), annotator.config.targets
        column = {target: index for index, target in enumerate(targets) if target in judged}
        thresholds = annotator.thresholds[annotator.view(view)].numpy()
        for study, row in zip(shown, probabilities, strict=True):
            values = [row[column[f]] - thresholds[column[f]] if f in column else np.nan for f in builder.findings]
            margins[study].append(np.array(values, np.float32))
    for study, rows in margins.items():
        if rows:
            known = ~np.isnan(np.stack(rows))
            mean = np.where(known, np.stack(rows), 0).sum(0) / np.maximum(known.sum(0), 1)
            result[study] = np.where(known.any(0), (mean >= 0).astype(np.float32), np.nan).astype(np.float32)
    return result


def facts_of(pool: Pool) -> dict[str, Any]:
    """Figures of a pool with all columns, for its record: cases, agreement of annotator and prompt, subgroups, number of prompts."""
    known = ~pool.truth.isnan() & ~pool.reread.isnan()
    return {
        "cases": {finding: int((pool.truth[:, k] == 1).sum()) for k, finding in enumerate(TARGETS)},
        "agreement": {
            finding: float((pool.truth == pool.reread)[known[:, k], k].float().mean())
            for k, finding in enumerate(TARGETS)
            if known[:, k].any()
        },
        "pass_filter": float(agrees(pool, TARGETS).mean()),
        "groups": {group: pool.groups.count(group) for group in sorted(set(pool.groups)) if group},
        "num_prompts": len(set(pool.sources.tolist()) - {-1}),
    }
