"""Evaluation: models judged on held-out studies, direction by direction, beside ceilings and floors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcodi.evaluation.annotators.classifier import ClassifierConfig, FindingClassifier
    from medcodi.evaluation.annotators.classifier_training import ClassifierTrainConfig, train_classifier
    from medcodi.evaluation.matrix import evaluate
    from medcodi.evaluation.options import EvaluateConfig
    from medcodi.evaluation.verification import verify_bundle

__all__ = [
    "ClassifierConfig",
    "ClassifierTrainConfig",
    "EvaluateConfig",
    "FindingClassifier",
    "evaluate",
    "train_classifier",
    "verify_bundle",
]

# Where each name lives; imported when asked for, so that the classifier and the pages do without the generator's libraries.
_HOMES = {
    "ClassifierConfig": "annotators.classifier",
    "FindingClassifier": "annotators.classifier",
    "ClassifierTrainConfig": "annotators.classifier_training",
    "train_classifier": "annotators.classifier_training",
    "EvaluateConfig": "options",
    "evaluate": "matrix",
    "verify_bundle": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
