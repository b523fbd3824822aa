"""Steps of ``diffuse`` as a run takes them, from the cache, beside the loop of diffusers' text-to-image example.

Same image denoiser, batch and precision. The peer's loop is that of ``examples/text_to_image/train_text_to_image.py``: PNG files
through its transforms, frozen VAE and text encoder in bfloat16 at every step, the UNet under autocast, clipping, AdamW as the
script builds it; without its accelerator, logs and average. Ours has all that a run has, the average included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import latent_cache
import torch
from diffusers import DDPMScheduler
from extraction import film
from measuring import fill
from measuring.networks import their_autoencoder, their_denoiser, their_text_encoder
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from medcodi.config import from_dict, to_dict
from medcodi.distributed import Ranks
from medcodi.model import MedCoDi, ModelConfig
from medcodi.training import run_folder
from medcodi.training.config import FaultConfig, TrainConfig
from medcodi.training.execution import attention_kernels
from medcodi.training.faults import Watchdog
from medcodi.training.loop import Loop
from medcodi.training.run import Run
from peer import Comparison, Sizes

TARGET = "frontal"


def comparison(sizes: Sizes, folder: Path) -> Comparison:
    """The demo's frontal denoiser; 32 studies a step."""
    studies = sizes.of(32, 4)
    stack = ExitStack()
    ours = stack.enter_context(our_loop(folder, studies))
    config = MedCoDi.from_pretrained(latent_cache.ROOT / "checkpoints/demo", lazy=True).config
    return Comparison(
        what=f"a step of {studies} studies at 128 x 128, data and encoders included, bf16",
        calls={
            "ours: diffuse from the cache": ours,
            "diffusers' text-to-image loop": their_loop(config, folder, studies),
        },
        goal=0.5,
        facts={"studies": studies},
        close=stack.close,
    )


@contextmanager
def our_loop(folder: Path, studies: int) -> Iterator[Callable[[], None]]:
    """One step of a run of the demo's recipe for one target; its cache is made before."""
    data, model = latent_cache.prepared(folder), latent_cache.start_model(folder)
    values = to_dict(latent_cache.config(folder, "run", data, model, cached=True))
    values["stage"]["options"]["targets"] = [TARGET]
    values["batch"]["global_size"] = studies
    config = from_dict(TrainConfig, values)
    with (
        Watchdog(Ranks(), FaultConfig()) as watch,
        run_folder.opened(config, None, Ranks()) as opened,
        attention_kernels(config.precision, torch.device("cpu")),
    ):
        steps = latent_cache.Steps(Loop(Run(config, opened, Ranks(), watch, None), watch))
        yield steps
        watch.report("done")


class Films(Dataset):
    """PNG files through the example's transforms, and token ids."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        from torchvision import transforms

        side, self.text = config.image_size, config.prompt_encoders.text
        self.paths = [folder / f"film-{index:03}.png" for index in range(latent_cache.STUDIES)]
        for index, path in enumerate(self.paths):
            Image.fromarray(film(index, side)).save(path)
        resized = [transforms.Resize(side), transforms.CenterCrop(side)]
        self.transform = transforms.Compose([*resized, transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.paths[index]) as picture:
            pixels = self.transform(picture)
        generator = torch.Generator().manual_seed(index)
        return pixels, torch.randint(1, 500, (self.text.context_length,), generator=generator)


def their_loop(config: ModelConfig, folder: Path, studies: int) -> Callable[[], None]:
    """One step of the example."""
    dtype, patch = torch.bfloat16, config.image_autoencoder.patch_size
    vae, text = (fill(each(config), dtype=dtype) for each in (their_autoencoder, their_text_encoder))
    unet = fill(their_denoiser(config, config.prompt_encoders.text.width)).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    noises = DDPMScheduler(num_train_timesteps=config.schedule.num_train_timesteps)
    loader = DataLoader(Films(folder, config), batch_size=studies, shuffle=True, drop_last=True)
    batches = iter(loader)

    def step() -> None:
        nonlocal batches
        try:
            pixels, ids = next(batches)
        except StopIteration:
            batches = iter(loader)
            pixels, ids = next(batches)
        with torch.no_grad():
            latents = vae.encode(F.pixel_unshuffle(pixels.to(dtype), patch)).latent_dist.sample() * 0.18215
            states = text(ids)[0]
        noise = torch.randn_like(latents)
        t = torch.randint(0, noises.config["num_train_timesteps"], (studies,))
        noisy = noises.add_noise(latents, noise, t)
        with torch.autocast("cpu", dtype):
            predicted = unet(noisy, t, states, return_dict=False)[0]
        loss = F.mse_loss(predicted.float(), noise.float())
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return step
