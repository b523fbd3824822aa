"""Precision, recall, density, coverage: the prdc package's numbers, blocks, a hand-made case, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.metrics.similarity import prdc

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(("num_real", "num_fake", "k"), [(120, 90, 5), (60, 130, 3), (40, 40, 1)])
def test_agrees_with_prdc(num_real: int, num_fake: int, k: int, capsys: pytest.CaptureFixture[str]) -> None:
    peer = pytest.importorskip("prdc")
    real = GENERATOR.normal(size=(num_real, 16)) + 50  # away from the origin
    fake = 50 + GENERATOR.normal(size=(num_fake, 16)) * 0.8 + 0.4
    expected = peer.compute_prdc(real_features=real, fake_features=fake, nearest_k=k)
    ours = prdc(real, fake, k=k)
    assert ours.to_dict() == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)
    for name, values in ours.per_sample.items():
        assert len(values) == (num_fake if name in ("precision", "density") else num_real)
        assert values.mean() == pytest.approx(getattr(ours, name), rel=1e-12)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    real, fake = GENERATOR.normal(size=(50, 6)), GENERATOR.normal(size=(47, 6)) + 0.5
    whole = prdc(real, fake)
    monkeypatch.setattr(sys.modules["medcodi.metrics.similarity"], "_BLOCK", 7)
    assert prdc(real, fake).to_dict() == whole.to_dict()


def test_on_a_line_by_hand() -> None:
    """Real 0, 1, 2, 10 with balls to the nearest: radii 1, 1, 1, 8. Generated 0.5, 20, 21: radii 19.5, 1, 1."""
    ours = prdc(np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [20], [21]]), k=1)
    assert ours.precision == pytest.approx(1 / 3)  # 0.5 alone lies in a ball: of 0 and of 1 (2 is 1.5 away)
    assert ours.density == pytest.approx(2 / 3)
    assert ours.recall == 1.0  # the ball of 0.5 reaches 20
    assert ours.coverage == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("real", "fake", "k", "message"),
    [
        (np.zeros((5, 2)), np.zeros((9, 2)), 5, "k = 5 of only 5 real samples.*at least 6"),
        (np.zeros((9, 2)), np.zeros((2, 2)), 5, "of only 2 generated samples"),
        (np.zeros((9, 2)), np.zeros((9, 2)), 0, "k is 0"),
        (np.zeros((9, 2)), np.full((9, 2), np.inf), 3, "9 of 9 generated feature vectors hold NaN or infinity"),
    ],
)
def test_refusals(real: np.ndarray, fake: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prdc(real, fake, k=k)
