"""The gradient of each patient's loss by the low-rank changes alone, and a bound on what one patient can change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from medcodi.stages.stage import Stage

Gradients = Mapping[str, Tensor]  # name of a parameter -> [B, *shape], one row a study or a patient


class _StudyLoss(nn.Module):
    """The loss of one study, as a module whose parameters torch.func can replace."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, inputs: Any) -> Tensor:
        one = tree_map(lambda value: value[None], inputs)  # a batch of one row
        return self.stage.study_losses(one)[0]


def study_gradients(
    stage: Stage, parameters: Mapping[str, Tensor], inputs: Any, chunk: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients ``[B, *shape]`` and losses ``[B]`` of B studies, each as if it were alone.

    Args:
        stage: Whose ``study_losses`` are differentiated.
        parameters: Name -> parameter of the stage, by which the losses are differentiated.
        inputs: Tree of ``[B, ...]``, from the stage's ``study_inputs``.
        chunk: Studies whose gradients are computed at the same time; None: all.
    """
    module = _StudyLoss(stage)
    values = {f"stage.{name}": parameter.detach() for name, parameter in parameters.items()}
    of_one = grad_and_value(lambda values, inputs: functional_call(module, values, (inputs,)))
    with sdpa_kernel([SDPBackend.MATH]):  # the fused kernels have no rule for vmap, and would run row by row
        gradients, losses = vmap(of_one, in_dims=(None, 0), chunk_size=chunk)(values, inputs)
    return {name.removeprefix("stage."): gradient.detach() for name, gradient in gradients.items()}, losses.detach()


def patient_means(gradients: Gradients, patient_ids: Sequence[str]) -> dict[str, Tensor]:
    """The mean over the studies ``[B, ...]`` of each patient: ``[P, ...]``, patients in the order of their first study."""
    place = {name: number for number, name in enumerate(dict.fromkeys(patient_ids))}
    rows = torch.tensor([place[name] for name in patient_ids])
    counts = torch.bincount(rows)  # studies of each patient, [P]
    means = {}
    for name, gradient in gradients.items():
        index = rows.to(gradient.device)
        total = gradient.new_zeros(len(place), *gradient.shape[1:]).index_add(0, index, gradient)
        means[name] = total / counts.to(gradient).view(-1, *[1] * (gradient.ndim - 1))
    return means


def clipped_sum(gradients: Gradients, clip: float) -> tuple[dict[str, Tensor], Tensor]:
    """The sum over patients of their gradients ``[P, ...]``, each shortened to at most ``clip``; and which were, bool ``[P]``.

    A gradient that is not finite counts as zero: it must not tell of its patient more than any other.
    """
    squares = [gradient.flatten(1).square().sum(dim=1) for gradient in gradients.values()]
    norms = torch.stack(squares).sum(dim=0).sqrt()  # [P], over all parameters
    finite = norms.isfinite()
    share = torch.where(finite, (clip / norms).clamp(max=1.0), 0.0)
    total = {
        name: torch.einsum("p,p...->...", share, torch.where(_like(finite, gradient), gradient, 0.0))
        for name, gradient in gradients.items()
    }
    return total, ~finite | (norms > clip)


def _like(flags: Tensor, gradient: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (gradient.ndim - 1))
