"""Overlap of generated reports with the true ones, and what is odd about them."""

from __future__ import annotations

import numpy as np

from medcodi.evaluation.materials import Means, Overlap, Whole
from medcodi.evaluation.measures.case import Case
from medcodi.evaluation.measures.images import repeated
from medcodi.evaluation.scores import flag, record
from medcodi.metrics.bootstrap import bootstrap_interval
from medcodi.metrics.labeler import looks_english


def score_texts(case: Case) -> None:
    """BLEU, ROUGE-L, METEOR and CIDEr, and the same against other patients' reports (one derangement). No ceiling: each study has one true report."""
    assert case.scorer is not None
    told, true = case.generated.texts, case.real.texts
    shuffled = [true[row] for row in case.studies.moved[0]]
    scores, floor = case.scorer.score(told, true), case.scorer.score(told, shuffled)
    for name, value in scores.corpus.items():
        if value is None:
            case.scores.leave_out(name, "; ".join(scores.notes) or "it was not asked for")
            continue
        statistic = scores.statistics[name]
        case.scores.metrics[name] = record(
            bootstrap_interval(statistic, case.studies.weights), floor=floor.corpus[name]
        )
        if name.startswith("bleu"):
            case.scores.materials[name] = Overlap(tuple(told), tuple(true), name, case.scorer)
        elif name == "meteor":
            case.scores.materials[name] = Whole(statistic, len(told))
        else:
            case.scores.materials[name] = Means(scores.per_study[name])
    case.scores.notes.extend(scores.notes)
    for scorer in case.readers.report_scorers.values():
        floors = scorer.annotate(told, shuffled)
        for metric, values in scorer.annotate(told, true).items():
            case.scores.add(metric, Means(values), case.studies.weights, floor=Means(floors[metric]))


def flag_texts(case: Case) -> None:
    """Empty reports, reports in another language, and equal ones of different studies."""
    texts, ids = case.generated.texts, case.studies.ids
    empty = np.array([not text.strip() for text in texts])
    found = {
        "empty": flag(empty, ids),
        "not English": flag([not looks_english(text) for text in texts], ids),
        "repeated": flag(repeated(case.generated.hashes) & ~empty, ids),
    }
    case.scores.flags |= {name: one for name, one in found.items() if one}
    if told := found["empty"]:
        case.scores.notes.append(
            f"{told['count']} of {len(ids)} reports are empty; they score 0 and count as without findings"
        )
    if told := found["not English"]:
        case.scores.notes.append(
            f"{told['count']} of {len(ids)} reports do not look English; the labeler reads English only"
        )
