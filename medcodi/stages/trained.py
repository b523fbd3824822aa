"""Which stage trains which parameter, asked of the stages themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcodi.model import STAGES as IN_ORDER
from medcodi.model import MedCoDi
from medcodi.stages.stage import STAGES, build_stage


def trained_in(model: MedCoDi, options: Mapping[str, Any] | None = None) -> dict[str, tuple[str, ...]]:
    """The stages that train each parameter: every stage takes the model over in turn, and says what it leaves trainable.

    The model may be on the meta device. Afterwards no parameter has ``requires_grad`` but those of the last stage, and the
    model is in evaluation mode.

    Args:
        model: Changed as said.
        options: Stage -> its options; absent: their defaults.

    Returns:
        Parameter name -> the stages, in order; empty where none trains it.
    """
    found: dict[str, list[str]] = {name: [] for name, _ in model.named_parameters()}
    been_through = model.trained_stages
    model.trained_stages = IN_ORDER
    try:
        for stage in STAGES:
            build_stage(stage, model, (options or {}).get(stage)).eval()
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    found[name].append(stage)
    finally:
        model.trained_stages = been_through
    return {name: tuple(stages) for name, stages in found.items()}
