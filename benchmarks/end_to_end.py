"""Prompt to image, end to end: ours at 20 steps beside 50 steps of DDIM through a ``diffusers`` pipeline of the same size.

    python benchmarks/end_to_end.py [--size mid] [--threads 2] [--repeats 3]
    python benchmarks/end_to_end.py --size full --repeats 1      8 GB, about 20 minutes on two cores
    python benchmarks/end_to_end.py --device cuda --size full    batches 1, 16 and 64, bfloat16, compiled or not; with MFU

Timed: text encoder, denoising with guidance 7.5 (both halves in one batch, on both sides), image decoder; not timed:
loading, and the peer's tokenizer. The peer is ``StableDiffusionPipeline`` without a safety checker, from components of the same
configuration; all weights are random. Ours is timed as DDIM at 50 steps too, so that what comes from fewer steps and what comes
from faster steps can be told apart. ``mid``: 256 x 256, denoisers of base 128, 512-d context; ``full``: MedCoDi-M.
Writes benchmarks/results/end_to_end_{size}.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from measuring import fill, interleaved, machine, mfu, ratio, report
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from medcodi.config import load
from medcodi.data.sources.phantom import phantom_report
from medcodi.generation.pipeline import generate_batch
from medcodi.model import MedCoDi, ModelConfig
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.networks.attention import Context
from medcodi.networks.tokenizer import ReportTokenizer

FULL = Path(__file__).parents[1] / "configs/models/medcodi-m.yaml"
SIZES: dict[str, list[str]] = {
    "full": [],
    "mid": [
        "name=mid",
        "prompt_encoders.embed_dim=512",
        "prompt_encoders.image.layers=1",  # not used here
        "prompt_encoders.text.width=512",
        "prompt_encoders.text.layers=6",
        "prompt_encoders.text.heads=8",
        "image_autoencoder.channels=[64, 128, 256, 256]",
        "image_denoiser.base_channels=128",
    ],
}
PROMPT, TARGET, SCALE, GOAL = "report", "frontal", 7.5, 2.2
NEEDED = ("prompt_encoders", "autoencoder_image", "denoiser_frontal")


def our_model(config: ModelConfig, device: str, dtype: torch.dtype) -> MedCoDi:
    """With random weights in the components that a report to a frontal needs; the others stay without memory."""
    tokenizer = ReportTokenizer.train([phantom_report(seed=0, index=index) for index in range(64)], vocab_size=2048)
    with init_empty_weights(include_buffers=False):
        model = MedCoDi(config, tokenizer)
    for name in NEEDED:
        fill(model.components()[name], device=device, dtype=dtype)
    return model.eval()


def their_pipeline(config: ModelConfig, device: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    """The same configuration in ``diffusers``."""
    text, image, unet = config.prompt_encoders.text, config.image_autoencoder, config.image_denoiser
    levels = len(image.channels)
    with init_empty_weights(include_buffers=False):
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=text.vocab_size or 2048,
                hidden_size=text.width,
                intermediate_size=4 * text.width,
                num_hidden_layers=text.layers,
                num_attention_heads=text.heads,
                max_position_embeddings=text.context_length,
            )
        )
        vae = AutoencoderKL(
            in_channels=image.in_channels,
            out_channels=image.in_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=image.channels,
            layers_per_block=image.layers_per_block,
            latent_channels=image.latent_channels,
            norm_num_groups=image.norm_num_groups,
            sample_size=config.image_size,
        )
        network = UNet2DConditionModel(
            sample_size=config.image_size // image.factor,
            block_out_channels=tuple(unet.base_channels * multiplier for multiplier in unet.multipliers),
            layers_per_block=unet.num_res_blocks,
            attention_head_dim=unet.num_heads,
            cross_attention_dim=text.width,
        )
    for part in (text_encoder, vae, network):
        fill(part, device=device, dtype=dtype)
    schedule = config.schedule
    scheduler = DDIMScheduler(
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        unet=network,
        scheduler=scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def their_images(pipeline: StableDiffusionPipeline, config: ModelConfig, batch: int, steps: int) -> np.ndarray:
    """Images of ``batch`` prompts of full length."""
    length = config.prompt_encoders.text.context_length
    device = pipeline.text_encoder.device
    ids = torch.randint(1, 2000, (2, length), generator=torch.Generator().manual_seed(0)).to(device)
    prompt, null = pipeline.text_encoder(ids)[0].chunk(2)
    return pipeline(
        prompt_embeds=prompt.expand(batch, -1, -1),
        negative_prompt_embeds=null.expand(batch, -1, -1),
        num_inference_steps=steps,
        guidance_scale=SCALE,
        height=config.image_size,
        width=config.image_size,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images  # pyright: ignore[reportAttributeAccessIssue]


def our_images(model: MedCoDi, batch: int, sampler: str, steps: int) -> np.ndarray:
    """Images of ``batch`` prompts."""
    settings = GenerationConfig(sampler=sampler, num_inference_steps=steps, guidance_scale=SCALE)
    prompts = [{PROMPT: phantom_report(seed=0, index=index)} for index in range(batch)]
    results = generate_batch(model, prompts, [TARGET], list(range(batch)), settings)
    images = np.stack([np.asarray(result[TARGET]) for result in results])
    assert np.isfinite(images).all()
    return images


def on_cpu(config: ModelConfig, repeats: int, steps: int) -> dict[str, Any]:
    """Ours in float32 and in bfloat16, and the pipeline, one image each, in turns."""
    plain, fast = (our_model(config, "cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    pipeline = their_pipeline(config, "cpu", torch.float32)
    with ExitStack() as stack:
        stack.enter_context(ExecutionConfig(channels_last=True).running(fast, NEEDED))
        calls: dict[str, Callable[[], Any]] = {
            "diffusers, DDIM 50": lambda: their_images(pipeline, config, 1, 50),
            "ours, DDIM 50, float32": lambda: our_images(plain, 1, "ddim", 50),
            f"ours, DPM-Solver++ {steps}, float32": lambda: our_images(plain, 1, "dpm++", steps),
            f"ours, DPM-Solver++ {steps}, bfloat16": lambda: our_images(fast, 1, "dpm++", steps),
        }
        times = interleaved(calls, repeats)
    peer = "diffusers, DDIM 50"
    faster = {name: round(1 / ratio(times, name, peer), 2) for name in times}
    return {"batch": 1, "times": times, "times_faster": faster, "goal": GOAL}


def on_gpu(config: ModelConfig, device: str, repeats: int, steps: int) -> dict[str, Any]:
    """Images per second at three batch sizes, bfloat16, compiled or not, beside the pipeline's."""
    rows = []
    for compiled in (False, True):
        model = our_model(config, device, torch.bfloat16)
        pipeline = their_pipeline(config, device, torch.bfloat16)
        if compiled:
            pipeline.unet = torch.compile(pipeline.unet)
        with ExecutionConfig(channels_last=True, compile=compiled).running(model, NEEDED):
            for batch in (1, 16, 64):
                calls = {
                    "diffusers": lambda batch=batch, pipeline=pipeline: their_images(pipeline, config, batch, 50),
                    "same steps": lambda batch=batch, model=model: our_images(model, batch, "ddim", 50),
                    "ours": lambda batch=batch, model=model: our_images(model, batch, "dpm++", steps),
                }
                times = interleaved(calls, repeats, device)
                seconds = times["ours"]["seconds"]["median"]
                rows.append(
                    {
                        "batch": batch,
                        "compiled": compiled,
                        "times": times,
                        "images_per_second": {name: batch / times[name]["seconds"]["median"] for name in times},
                        "mfu_of_denoising_alone": mfu(steps * step_flops(config, 2 * batch), seconds),
                    }
                )
        del model, pipeline
        torch.cuda.empty_cache()
    return {"precision": "bfloat16", "rows": rows}


def step_flops(config: ModelConfig, batch: int) -> float:
    """Operations of one denoiser call."""
    tokenizer = ReportTokenizer.train(["report"], vocab_size=512)
    with torch.device("meta"):
        denoiser = MedCoDi(config, tokenizer).denoisers[TARGET]
        side, width = config.image_size // config.image_autoencoder.factor, config.prompt_encoders.embed_dim
        z = torch.empty(batch, config.image_autoencoder.latent_channels, side, side)
        t, tokens = torch.empty(batch, dtype=torch.long), torch.empty(batch, 1, width)
    with FlopCounterMode(display=False) as counter:
        denoiser(z, t, Context(tokens))
    return counter.get_total_flops()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load(ModelConfig, FULL, SIZES[arguments.size])
    command = (
        f"python benchmarks/end_to_end.py --size {arguments.size} --device {arguments.device}"
        f" --threads {arguments.threads} --repeats {arguments.repeats} --steps {arguments.steps}"
    )
    found: dict[str, Any] = {"command": command, "machine": machine(arguments.device), "size": arguments.size}
    if arguments.device.startswith("cuda"):
        found |= on_gpu(config, arguments.device, arguments.repeats, arguments.steps)
        header = ["batch", "compiled", "ours, images/s", "ours at 50 DDIM steps", "diffusers, 50 DDIM steps", "MFU"]
        rows = [
            [
                r["batch"],
                r["compiled"],
                *(f"{r['images_per_second'][n]:.2f}" for n in ("ours", "same steps", "diffusers")),
                r["mfu_of_denoising_alone"],
            ]
            for r in found["rows"]
        ]
        report(f"end_to_end_{arguments.size}_gpu", found, header, rows)
        return
    found |= on_cpu(config, arguments.repeats, arguments.steps)
    rows = [
        [
            name,
            f"{found['times'][name]['seconds']['median']:.1f}",
            found["times_faster"][name],
            GOAL if "DPM" in name else "",
        ]
        for name in found["times"]
    ]
    report(f"end_to_end_{arguments.size}", found, ["prompt to image", "seconds", "times faster", "goal"], rows)


if __name__ == "__main__":
    main()
