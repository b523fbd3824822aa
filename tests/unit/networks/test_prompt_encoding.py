"""Encoded prompts: rows, padding, replacement."""

from __future__ import annotations

import torch

from medcodi.networks.prompt_encoding import PromptEncoding


def encoding(value: float, batch: int, length: int) -> PromptEncoding:
    mask = torch.ones(batch, length, dtype=torch.bool)
    return PromptEncoding(torch.full((batch, 2), value), torch.full((batch, length, 2), value), mask)


def test_padding_is_masked_and_keeps_the_tokens() -> None:
    padded = encoding(3.0, 2, 4).padded(6)
    assert padded.tokens.shape == (2, 6, 2) and padded.mask.sum(1).tolist() == [4, 4]
    assert padded.tokens[:, 4:].eq(0).all() and padded.tokens[:, :4].eq(3).all()


def test_rows_are_replaced_where_they_are_not_kept() -> None:
    long, short = encoding(1.0, 3, 5), encoding(2.0, 1, 2).expand(3)
    mixed = long.where(torch.tensor([True, False, True]), short)
    assert mixed.pooled[:, 0].tolist() == [1.0, 2.0, 1.0] and mixed.mask.sum(1).tolist() == [5, 2, 5]
    assert mixed.tokens[1, :, 0].tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]


def test_one_row_is_repeated_without_a_copy_and_rows_are_selected() -> None:
    one = encoding(1.0, 1, 2)
    many = one.expand(4)
    assert len(many) == 4 and many.tokens.data_ptr() == one.tokens.data_ptr()
    both = PromptEncoding.concatenate([one, encoding(2.0, 2, 3)])
    assert len(both) == 3 and both.mask.sum(1).tolist() == [2, 3, 3]
    assert both.rows(slice(1, 3)).pooled.eq(2).all() and both.rows(torch.tensor([0])).pooled.eq(1).all()
