"""Operations are counted on a CPU as the products they are."""

from __future__ import annotations

import torch

from medcodi.stages.dry_run import Operations


def test_operations_are_those_of_both_passes() -> None:
    a, b = torch.ones(8, 16, requires_grad=True), torch.ones(16, 4)
    with Operations() as counted:
        (a @ b).sum().backward()
    assert counted.total == 2 * (2 * 8 * 16 * 4)  # b is frozen: one product back, not two


def test_operations_of_attention_are_counted_on_a_cpu() -> None:
    """Two products forward; backward the scores again, and four gradients: 2 + 5."""
    q, k, v = (torch.ones(2, 4, length, 8, requires_grad=True) for length in (6, 10, 10))
    with Operations() as counted:
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    assert counted.total == 7 * (2 * 2 * 4 * 6 * 10 * 8)
