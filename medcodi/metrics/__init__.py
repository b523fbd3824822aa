"""Metrics: pure functions of features, labels and strings, never of models."""

from medcodi.metrics.bootstrap import Interval, bootstrap_interval, paired_difference, resampling_weights
from medcodi.metrics.distances import KernelDistance, Moments, frechet_distance, kernel_distance
from medcodi.metrics.findings import FindingScores, auroc, best_thresholds, finding_scores
from medcodi.metrics.labeler import label_matrix, label_report, labels_from_findings
from medcodi.metrics.text import TextScorer

__all__ = [
    "FindingScores",
    "Interval",
    "KernelDistance",
    "Moments",
    "TextScorer",
    "auroc",
    "best_thresholds",
    "bootstrap_interval",
    "finding_scores",
    "frechet_distance",
    "kernel_distance",
    "label_matrix",
    "label_report",
    "labels_from_findings",
    "paired_difference",
    "resampling_weights",
]
