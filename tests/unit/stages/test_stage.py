"""The table of stages, what each trains, and what must come before."""

from __future__ import annotations

import pytest

from medcodi import model as models
from medcodi.errors import ConfigError, TrainingError
from medcodi.model import tiny_model
from medcodi.stages.stage import STAGES, build_stage, stage_class, trained_in


def test_the_table_holds_the_stages_that_a_model_knows_in_order() -> None:
    assert tuple(STAGES) == (*models.STAGES, "distil")  # distil is optional
    for place, name in enumerate(STAGES):
        stage = stage_class(name)
        assert stage.name == name
        assert all(tuple(STAGES).index(before) < place for before in stage.requires)


def test_every_parameter_is_trained_by_one_stage() -> None:
    model = tiny_model()
    for name, stages in trained_in(model).items():
        part = name.split(".")[0]
        own = {"prompt_encoders": "align", "autoencoders": "autoencode", "environment": "join"}
        expected = own.get(part, "join" if "connector" in name else "diffuse")
        assert stages == (expected,), name
    assert model.trained_stages == ()


@pytest.mark.parametrize("name", STAGES)
def test_only_trained_parts_have_a_gradient_and_training_mode(name: str) -> None:
    model = tiny_model()
    model.trained_stages = tuple(STAGES)
    stage = build_stage(name, model)
    trained = {id(p) for parts in stage.parts().values() for part in parts for p in part.parameters()}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}
    assert all(part.training for part in stage.trained_parts())
    frozen = [module for module in model.modules() if module.training]
    assert {id(p) for module in frozen for p in module.parameters(recurse=False)} <= trained
    assert not any(module.training for module in stage.eval().modules())


def test_refusals() -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="did you mean 'diffuse'"):
        build_stage("difuse", model)
    model.trained_stages = ("autoencode",)
    with pytest.raises(TrainingError, match="'diffuse' cannot start: .*'align'"):
        build_stage("diffuse", model)
    with pytest.raises(ConfigError, match="options of stage 'align'.*did you mean 'shift'"):
        build_stage("align", model, {"shfit": 0.1})
    assert build_stage("align", model, {"shift": 0.1}).config.shift == 0.1
