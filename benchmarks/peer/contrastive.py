"""A step of ``align`` beside open_clip's of the same towers: forward, symmetric InfoNCE, backward, AdamW; bf16 autocast, no average."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from card import Setup
from card.training import Steps, recipe, study_batch
from measuring.networks import MODELS, our_model

from medcodi.config import load
from medcodi.distributed import Ranks
from medcodi.model import ModelConfig
from peer import Comparison, Sizes


def comparison(sizes: Sizes, folder: Path) -> Comparison:
    """Both on the same number of films and reports; ours tokenises its reports and resizes nothing, the peer gets token ids."""
    side, width, layers, studies = sizes.of((128, 384, 6, 32), (64, 64, 1, 4))
    heads = width // 64
    settings = [
        "modalities=[frontal, report]",
        f"image_size={side}",
        f"prompt_encoders.embed_dim={sizes.of(512, 32)}",
        f"prompt_encoders.image={{patch_size: 16, width: {width}, layers: {layers}, heads: {heads}, activation: gelu}}",
        f"prompt_encoders.text={{context_length: 77, width: {width}, layers: {layers}, heads: {heads}, activation: gelu}}",
    ]
    config = load(ModelConfig, MODELS / "medcodi-m.yaml", settings)

    # Ours: the stage through its engine, without the average and the clipping that the peer's loop leaves out too.
    model = our_model(config, ("prompt_encoders",), "cpu", torch.float32)
    changes = {"ema.enabled": "false", "optimizer.grad_clip": "null", "batch.micro_size": studies}
    run = recipe(Setup("cpu"), "medcodi-m/2-align.yaml", studies, **changes)
    batch = study_batch(config.modalities, side, studies)
    ours = Steps(run, model, batch, Ranks())

    # The peer: its CLIP, its loss, and the optimiser of its training script, fused.
    tower = {"layers": layers, "width": width}
    network = open_clip.model.CLIP(
        config.prompt_encoders.embed_dim,
        {**tower, "image_size": side, "patch_size": 16, "head_width": width // heads},  # pyright: ignore[reportArgumentType]
        {**tower, "context_length": 77, "vocab_size": 2048, "heads": heads},  # pyright: ignore[reportArgumentType]
    )
    loss = open_clip.loss.ClipLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(0)
    films = torch.rand(studies, 3, side, side, generator=generator)
    ids = torch.randint(1, 2047, (studies, 77), generator=generator)

    def theirs() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            features = network(films, ids)
            total = loss(*features)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            network.logit_scale.clamp_(0, 4.6052)

    count = {
        "ours": sum(p.numel() for p in ours.stage.parameters() if p.requires_grad),
        "open_clip": sum(p.numel() for p in network.parameters()),
    }
    return Comparison(
        what=f"a contrastive step of {studies} pairs at {side} x {side}, bf16 autocast, AdamW",
        calls={"ours: align": ours, "open_clip": theirs},
        goal=1.0,
        facts={"trained_parameters": count, "studies": studies},
        close=ours.close,
    )
