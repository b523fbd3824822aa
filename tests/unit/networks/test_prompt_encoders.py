"""The prompt encoders: unit vectors, masks that hold, null prompts, the temperature."""

import math

import pytest
import torch
from torch import nn

from medcodi.config import from_dict
from medcodi.errors import ConfigError, PromptError
from medcodi.networks.prompt_encoders import PromptEncoders, PromptEncodersConfig
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.networks.tokenizer import ReportTokenizer

TOKENIZER = ReportTokenizer.train(["The heart is enlarged.", "No pleural effusion."] * 3, vocab_size=300)
TEXTS = ["The heart is enlarged. No pleural effusion. The heart is not small.", "Heart."]


def small(stem: str = "patch", causal: bool = True, patch_size: int = 8, **image) -> PromptEncoders:
    torch.manual_seed(0)
    size = {"width": 32, "layers": 2, "heads": 2}
    values = {
        "embed_dim": 16,
        "image": {**size, "patch_size": patch_size, "stem": stem, **image},
        "text": {**size, "context_length": 40, "causal": causal},
    }
    return from_dict(PromptEncodersConfig, values).build(TOKENIZER, 32).eval()


@pytest.mark.parametrize("stem", ["patch", "conv"])
@torch.no_grad()
def test_images(stem: str) -> None:
    encoding = small(stem).encode("image", torch.rand(3, 1, 32, 32))
    assert encoding.pooled.shape == (3, 16) and encoding.tokens.shape == (3, 17, 16) and encoding.mask.all()
    assert torch.allclose(encoding.pooled.norm(dim=-1), torch.ones(3))
    assert torch.allclose(encoding.tokens[:, 0], encoding.pooled, atol=1e-6)  # the class token is the pooled one


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_padding_does_not_matter(causal: bool) -> None:
    encoders = small(causal=causal)
    together, alone = encoders.encode("text", TEXTS), encoders.encode("text", TEXTS[1:])
    length = alone.tokens.shape[1]
    assert length < together.tokens.shape[1]
    assert together.mask.sum(1).tolist() == [together.tokens.shape[1], length]
    assert torch.allclose(together.pooled[1:], alone.pooled, atol=1e-6)
    assert torch.allclose(together.tokens[1:, :length], alone.tokens, atol=1e-5)
    assert (together.tokens[~together.mask] == 0).all()
    assert torch.allclose(together.pooled.norm(dim=-1), torch.ones(2))


@torch.no_grad()
def test_text_tower_agrees_with_open_clip_where_it_runs() -> None:
    encoders = small()
    ids, mask = TOKENIZER.encode(TEXTS, 40)
    full = nn.functional.pad(ids, (0, 40 - ids.shape[1]), value=TOKENIZER.pad_id)  # open_clip wants the whole context
    encoders.text_tower.pool_type, encoders.text_tower.eos_id = "eos", TOKENIZER.eos_id
    expected = nn.functional.normalize(encoders.text_tower(full), dim=-1)
    assert torch.allclose(encoders.encode("text", TEXTS).pooled, expected, atol=1e-6)


@torch.no_grad()
def test_images_of_another_size_are_resized() -> None:
    encoders = small(image_size=16)
    assert encoders.image_size == 16
    flat = torch.full((1, 1, 32, 32), 0.25)
    assert torch.allclose(
        encoders.encode("image", flat).pooled, encoders.encode("image", flat[..., :16, :16]).pooled, atol=1e-5
    )


@torch.no_grad()
def test_null_prompts() -> None:
    encoders = small()
    image, text = encoders.null("image", 2), encoders.null("text", 3)
    assert torch.equal(image.pooled, encoders.encode("image", torch.zeros(1, 1, 32, 32)).pooled.expand(2, -1))
    assert len(text) == 3 and text.mask.shape == (3, 2)
    assert torch.allclose(text.pooled[:1], encoders.encode("text", ["", *TEXTS]).pooled[:1], atol=1e-6)


def test_encodings_select_and_concatenate() -> None:
    one = PromptEncoding(torch.zeros(2, 4), torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    two = PromptEncoding(torch.ones(2, 4), torch.ones(2, 5, 4), torch.ones(2, 5, dtype=torch.bool))
    chosen = one.where(torch.tensor([True, False]), two)
    assert chosen.pooled[:, 0].tolist() == [0.0, 1.0] and chosen.mask.sum(1).tolist() == [3, 5]
    joined = PromptEncoding.concatenate([one, two])
    assert len(joined) == 4 and joined.mask.sum(1).tolist() == [3, 3, 5, 5]
    assert joined.rows(slice(2, 3)).pooled.tolist() == [[1.0] * 4]


@pytest.mark.parametrize(
    ("raw", "clamped", "sign", "gradient"),
    [
        (2.0, 2.0, 1.0, 1.0),
        (-1.0, 0.0, -1.0, -1.0),  # a descent would raise it: back in
        (-1.0, 0.0, 1.0, 0.0),
        (9.0, math.log(100), 1.0, 1.0),
        (9.0, math.log(100), -1.0, 0.0),  # a descent would raise it further
    ],
)
def test_temperature_is_clamped_can_come_back_and_goes_no_further(
    raw: float, clamped: float, sign: float, gradient: float
) -> None:
    encoders = small()
    with torch.no_grad():
        encoders.logit_scale.fill_(raw)
    value = encoders.clamped_logit_scale()
    (sign * value).backward()
    assert value.item() == pytest.approx(clamped) and encoders.logit_scale.grad.item() == gradient


def test_lower_precision_and_gradients() -> None:
    encoders = small("conv", causal=False).train()
    with torch.autocast("cpu", torch.bfloat16):
        pooled = encoders.encode("image", torch.rand(2, 1, 32, 32)).pooled + encoders.encode("text", TEXTS).pooled
    assert pooled.dtype == torch.float32
    (pooled[:, 0].sum() * encoders.clamped_logit_scale()).backward()
    unused = {"text_tower.text_projection"} & {
        name for name, value in encoders.named_parameters() if value.grad is None
    }
    assert not unused


def test_refusals() -> None:
    with pytest.raises(PromptError, match=r"a tensor \[1, 3, 32, 32\] as image"):
        small().encode("image", torch.zeros(1, 3, 32, 32))
    with pytest.raises(PromptError, match="a str as text"):
        small().encode("text", "one text")
    with pytest.raises(ConfigError, match="patches of 7"):
        small(patch_size=7)
    with pytest.raises(ConfigError, match="power of 2"):
        small("conv", patch_size=6)
