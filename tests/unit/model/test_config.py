"""The config of a model: the recipes, and sizes that do not fit together."""

import pytest

from medcodi.config import from_dict, load, to_dict
from medcodi.errors import ConfigError
from medcodi.model import ModelConfig, tiny_config

TEXTS = ["FINDINGS: Large left pleural effusion. IMPRESSION: Large left effusion."]


def test_the_tiny_recipe_is_the_tiny_config():
    assert load(ModelConfig, "configs/models/tiny.yaml") == tiny_config()


def test_the_demo_recipe_stays_under_thirty_million_parameters():
    from medcodi.model import build_model

    built = build_model(load(ModelConfig, "configs/models/demo.yaml"), TEXTS)
    assert sum(parameter.numel() for parameter in built.parameters()) <= 30e6


def test_a_config_survives_json():
    config = tiny_config(context="pooled", environment_scale=2.0)
    assert from_dict(ModelConfig, to_dict(config)) == config


def test_modalities_out_of_table_order_are_refused():
    with pytest.raises(ConfigError, match="not in table order"):
        tiny_config(modalities=("report", "frontal"))
    with pytest.raises(ConfigError, match="occurs twice"):
        tiny_config(modalities=("frontal", "frontal"))


@pytest.mark.parametrize(
    ("image_size", "fits"),
    [(32, True), (8, True), (24, True), (36, False), (4, False)],  # latents of 8, 2, 6, 9 and 1, halved once
)
def test_an_image_latent_that_cannot_be_halved_at_every_level_is_refused(image_size, fits):
    if fits:
        tiny_config(image_size=image_size)
    else:
        with pytest.raises(ConfigError, match=r"cannot be halved 1 times.*multiple of 8"):
            tiny_config(image_size=image_size)


def test_a_model_of_reports_alone_has_no_image_latent():
    assert tiny_config(image_size=36, modalities=("report",)).modalities == ("report",)
