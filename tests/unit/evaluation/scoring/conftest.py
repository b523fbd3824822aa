"""Toy studies as tables of annotations, and what a toy generator makes of them, annotated and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from medcodi.evaluation.annotate import Annotators, pair_similarities
from medcodi.evaluation.annotations import AnnotationTable, StudyTable, side_codes
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.evaluation.annotators.features import load_extractor
from medcodi.evaluation.annotators.image_annotators import ClassifierAnnotator
from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.scoring.case import ScoredStudies
from medcodi.evaluation.scoring.direction import DirectionScores, score_direction
from medcodi.evaluation.studies import HeldOutStudies, Value
from medcodi.metrics import TextScorer
from medcodi.modality import MODALITIES
from medcodi.study import Direction

CONFIG = ScoringConfig(bootstrap_samples=200, min_positives=3, kernel_subset=20, diversity_pairs=10)


def study_table(held_out: HeldOutStudies) -> StudyTable:
    """The table that an evaluation stores."""
    return StudyTable(
        held_out.ids,
        held_out.patients,
        held_out.studies.places,
        held_out.modalities,
        held_out.truth,
        side_codes(held_out.findings),
    )


@dataclass
class Toy:
    """Held-out studies with their annotators and a scorer of texts."""

    held_out: HeldOutStudies
    annotators: Annotators
    scorer: TextScorer | None = None

    def annotate(self, modality: str, values: Sequence[Value], truth: Sequence[Value] | None = None) -> AnnotationTable:
        """Annotate all studies' contents of one modality."""
        rows = range(len(values))
        return self.annotators.annotate(modality, rows, values, truth, self.held_out.patients)

    def score(
        self, direction: str, values: Callable[[str, list[int]], list[Value]], config: ScoringConfig = CONFIG
    ) -> DirectionScores:
        """Score ``values(target, rows)`` as if they had been generated."""
        parsed, rows = Direction.parse(direction), list(range(len(self.held_out)))
        generated, real = {}, {}
        for target in parsed.targets:
            made, truth = values(target, rows), self.held_out.values(target, rows)
            generated[target], real[target] = self.annotate(target, made, truth), self.annotate(target, truth)
            if MODALITIES[target].kind == "image" and "diversity" in config.metrics and len(rows) >= 8:
                images = [np.asarray(image) for image in made]
                pairs = pair_similarities(self.held_out, target, rows, images, {}, config)
                generated[target] = replace(generated[target], pairs=pairs)
        real |= {prompt: self.annotate(prompt, self.held_out.values(prompt, rows)) for prompt in parsed.prompts}
        studies = ScoredStudies(study_table(self.held_out), rows, config, self.held_out.image_size)
        return score_direction(parsed, studies, generated, real, self.scorer)

    def score_moved(self, direction: str, move: int) -> dict:
        """Score the real targets of the study ``move`` places on, as if they had been generated."""
        return self.score(
            direction, lambda target, rows: self.held_out.values(target, np.roll(rows, -move).tolist())
        ).to_dict()


@pytest.fixture(scope="session")
def annotators(toy_classifier: FindingClassifier, tmp_path_factory: pytest.TempPathFactory) -> Annotators:
    """Classifier, its features, rule labeler, likeness."""
    folder = toy_classifier.save(tmp_path_factory.mktemp("classifier"))
    features = load_extractor("demo", weights=folder, batch_size=32)
    return Annotators(images=ClassifierAnnotator(toy_classifier), features=[features], similarity=True)


@pytest.fixture(scope="session")
def toy(toy_dataset, annotators: Annotators):
    """60 toy studies, without a scorer of texts."""
    return Toy(HeldOutStudies(toy_dataset(60, seed=5)), annotators)


@pytest.fixture(scope="session")
def toy_with_texts(toy: Toy):
    """The same, with overlap of texts; METEOR, which is slow to start, is left out."""
    pytest.importorskip("pycocoevalcap")
    with TextScorer(meteor=False) as scorer:
        yield replace(toy, scorer=scorer)
