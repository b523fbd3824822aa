"""The record tower and its tokens: missing fields have no influence, numbers are normalised as fitted."""

import math

import pytest
import torch

from medcodi.errors import DataError
from medcodi.networks.records import FieldTokens, RecordTower, RecordTowerConfig, raw_values
from medcodi.record import RecordConfig

SCHEMA = RecordConfig(
    fields={
        "age": {"low": 0, "high": 120},
        "sex": {"values": ("F", "M")},
        "crp": {"low": 0.1, "high": 500, "scale": "log"},
    }
)


def tower() -> RecordTower:
    torch.manual_seed(0)
    return RecordTower(RecordTowerConfig(width=32, layers=2, heads=2), SCHEMA, 16).eval()


def test_values_on_their_scales():
    values, known = raw_values(SCHEMA, [{"age": 40, "sex": "M", "crp": 10}, {"sex": "F"}])
    assert values[0].tolist() == pytest.approx([40, 1, math.log(10)]) and known[0].all()
    assert known[1].tolist() == [False, True, False] and values[1].tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="unknown field 'weight'"):
        raw_values(SCHEMA, [{"weight": 1}])


def test_normalisation_is_fitted_on_what_is_known():
    tokens = FieldTokens(SCHEMA, 8)
    tokens.fit([{"age": 30, "sex": "F"}, {"age": 50}, {"crp": 3}])
    assert tokens.mean[0] == 40 and tokens.std[0] == pytest.approx(200**0.5)
    assert tokens.mean[2] == 0 and tokens.std[2] == 1  # one value only
    normalised, known = tokens.tensors([{"age": 40 + 200**0.5}])
    assert normalised[0].tolist() == pytest.approx([1, 0, 0], abs=1e-5) and known[0].tolist() == [True, False, False]


def test_the_tower_masks_what_is_missing():
    pooled, tokens, mask = tower()([{"age": 40, "sex": "F"}, {}])
    assert pooled.shape == (2, 16) and tokens.shape == (2, 4, 16)
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert not torch.allclose(pooled[0], pooled[1])


def test_the_embedding_of_a_missing_field_has_no_influence_on_the_tower():
    model = tower()
    before = model([{"age": 40}])[0]
    with torch.no_grad():
        model.tokens.missing.add_(1.0)
    torch.testing.assert_close(model([{"age": 40}])[0], before, rtol=0, atol=1e-6)


def test_every_known_field_matters():
    model = tower()
    base = model([{"age": 40, "sex": "F", "crp": 3}])[0]
    for change in ({"age": 80}, {"sex": "M"}, {"crp": 300}):
        assert not torch.allclose(model([{"age": 40, "sex": "F", "crp": 3, **change}])[0], base, atol=1e-4), change
