"""What ZeRO-3 needs, without DeepSpeed: scalars that it may broadcast, padding that is zero."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from medcodi.training.deepspeed import library


def test_scalars_are_vectors_only_while_deepspeed_takes_them_over() -> None:
    scalar, vector = nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.ones(3))
    with library.scalars_as_vectors([scalar, vector]):
        assert scalar.shape == (1,) and vector.shape == (3,)
    whole: Any = scalar
    assert scalar.shape == () and scalar.item() == 2.5 and whole.ds_shape == torch.Size([])
    assert not hasattr(vector, "ds_shape")


def test_the_padding_of_a_shard_is_cleared_and_nothing_else() -> None:
    # 5 elements over 2 ranks: shards of 3, and the last element of the second is padding.
    parameter: Any = SimpleNamespace(ds_tensor=torch.full((3,), 7.0), ds_numel=5)
    master = torch.full((4,), 9.0)

    class Optimizer:
        fp16_groups = ((parameter,),)
        grad_position = {0: (0, 1, 3)}
        fp32_partitioned_groups_flat = (master,)

        def get_param_id(self, parameter: Any) -> int:
            return 0

        def _swappable_optimizer_subgroup(self, group: int) -> bool:
            return False

    library.clear_padding(Optimizer(), [parameter], rank=1)
    assert parameter.ds_tensor.tolist() == [7.0, 7.0, 0.0] and master.tolist() == [9.0, 9.0, 9.0, 0.0]
    library.clear_padding(Optimizer(), [parameter], rank=0)  # the first rank has none
    assert parameter.ds_tensor.tolist() == [7.0, 7.0, 0.0]


def test_what_was_gathered_is_dropped_when_shards_change() -> None:
    dropped: list[str] = []
    optimizer = SimpleNamespace(empty_partition_cache=lambda: dropped.append("dropped"))
    with library.shares_changed(optimizer):
        assert dropped == ["dropped"]
    assert dropped == ["dropped", "dropped"]
