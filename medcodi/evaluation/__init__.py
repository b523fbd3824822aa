"""Evaluation: models judged on held-out studies, direction by direction, beside ceilings and floors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcodi.lazy import lazy_names

if TYPE_CHECKING:
    from medcodi.evaluation.annotators.classifier import ClassifierConfig, FindingClassifier
    from medcodi.evaluation.annotators.classifier_training import ClassifierTrainConfig, train_classifier
    from medcodi.evaluation.config import EvaluateConfig, ScoringConfig
    from medcodi.evaluation.pipeline import evaluate
    from medcodi.evaluation.recompute import rescore_bundle, verify_bundle

__all__ = [
    "ClassifierConfig",
    "ClassifierTrainConfig",
    "EvaluateConfig",
    "FindingClassifier",
    "ScoringConfig",
    "evaluate",
    "rescore_bundle",
    "train_classifier",
    "verify_bundle",
]

# Module of each name; imported on first use, so that the classifier and the pages do without the generator's libraries.
__getattr__ = lazy_names(
    __name__,
    {
        "ClassifierConfig": ".annotators.classifier",
        "FindingClassifier": ".annotators.classifier",
        "ClassifierTrainConfig": ".annotators.classifier_training",
        "train_classifier": ".annotators.classifier_training",
        "EvaluateConfig": ".config",
        "ScoringConfig": ".config",
        "evaluate": ".pipeline",
        "rescore_bundle": ".recompute",
        "verify_bundle": ".recompute",
    },
)
