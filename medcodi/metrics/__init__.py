"""Metrics: pure functions of features, labels and strings. None of them knows a model."""

from medcodi.metrics.bootstrap import Interval, bootstrap_interval, paired_difference, resampling_weights
from medcodi.metrics.findings import FindingScores, auroc, best_thresholds, finding_scores, side_accuracy
from medcodi.metrics.frechet import Moments, frechet_distance
from medcodi.metrics.labeler import label_matrix, label_report, labels_from_findings
from medcodi.metrics.text import TextScorer

__all__ = [
    "FindingScores",
    "Interval",
    "Moments",
    "TextScorer",
    "auroc",
    "best_thresholds",
    "bootstrap_interval",
    "finding_scores",
    "frechet_distance",
    "label_matrix",
    "label_report",
    "labels_from_findings",
    "paired_difference",
    "resampling_weights",
    "side_accuracy",
]
