"""InfoNCE: by hand, with masks, and the same on two ranks as on one."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from medcodi.stages.contrastive import contrast, gather_rows, group_ids, info_nce
from medcodi.stages.step import mean_term


def unit_rows(num: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(num, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # logits, scale 2: [[2, 1.2], [0, 1.6]]; rows then columns
    rows = (math.log(1 + math.exp(1.2 - 2.0)) + math.log(1 + math.exp(0 - 1.6))) / 2
    columns = (math.log(1 + math.exp(0 - 2.0)) + math.log(1 + math.exp(1.2 - 1.6))) / 2
    result = info_nce(a, b, 2.0)
    assert result.loss.item() == pytest.approx((rows + columns) / 2, abs=1e-6)
    assert result.accuracy == 1.0 and result.num_rows == 2


def test_rows_of_one_study_are_not_negatives() -> None:
    a, b = unit_rows(4, 0), unit_rows(4, 1)
    groups = group_ids(["x", "y", "x", "z"])
    logits = 3.0 * a @ b.T
    for i, j in ((0, 2), (2, 0)):
        logits[i, j] = -math.inf
    own = torch.arange(4)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert torch.allclose(info_nce(a, b, 3.0, groups).loss, expected)
    assert not torch.allclose(info_nce(a, b, 3.0).loss, expected)


def test_absent_rows_take_no_part() -> None:
    a, b = unit_rows(5, 0).requires_grad_(), unit_rows(5, 1).requires_grad_()
    present = torch.tensor([True, False, True, True, False])
    result = info_nce(a, b, 3.0, group_ids(list("abcde")), present)
    kept = info_nce(a[present], b[present], 3.0)
    assert torch.allclose(result.loss, kept.loss) and result.accuracy == kept.accuracy and result.num_rows == 3
    result.loss.backward()
    assert (a.grad[~present] == 0).all() and (a.grad[present] != 0).any()


@pytest.mark.parametrize("num_present", [0, 1])
def test_too_few_rows_cost_nothing(num_present: int) -> None:
    a = unit_rows(3, 0).requires_grad_()
    result = info_nce(a, unit_rows(3, 1), 3.0, None, torch.arange(3) < num_present)
    result.loss.backward()
    assert result.loss == 0 and (a.grad == 0).all() and result.num_rows == num_present


def test_one_study_only_is_finite() -> None:
    result = info_nce(unit_rows(3, 0), unit_rows(3, 1), 3.0, group_ids(["same"] * 3))
    assert result.loss == 0


def test_group_ids_are_stable() -> None:
    assert group_ids(["a", "b", "a"]).tolist() == group_ids(["a", "b", "a"]).tolist()
    assert len(set(group_ids(["a", "b", "a"]).tolist())) == 2


def _whole_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    present = torch.tensor([True, True, False, True, True, True])
    return unit_rows(6, 0), unit_rows(6, 1), group_ids(list("abcdba")), present


def _step(rows: slice) -> dict[str, torch.Tensor]:
    """Loss and gradients of a linear encoder on some rows of the batch."""
    a, b, groups, present = _whole_batch()
    weight = torch.eye(6).mul(1.5).requires_grad_()
    scale = torch.tensor(1.2).requires_grad_()
    encoded = F.normalize(a[rows] @ weight, dim=-1)
    result = contrast(encoded, b[rows], scale.exp(), groups[rows], present[rows])
    mean, _ = mean_term((a[rows] @ weight).square().sum(1), present[rows], [present[rows]])
    (result.loss + mean).backward()
    return {
        "loss": result.loss.detach(),
        "mean": mean.detach(),
        "accuracy": result.accuracy,
        "weight": weight.grad,
        "scale": scale.grad,
    }


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = _step(slice(3 * rank, 3 * rank + 3))
    for value in found.values():  # as data parallelism averages losses and gradients
        dist.all_reduce(value)
        value /= 2
    assert gather_rows(torch.tensor([rank == 0])).tolist() == [True, False]
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    found, expected = torch.load(tmp_path / "found.pt", weights_only=True), _step(slice(None))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name
