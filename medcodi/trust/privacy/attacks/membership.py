"""Membership inference: is the denoising loss of a study lower than its difficulty explains?

A study's loss is the error of a denoiser on its latent, at a grid of timesteps, with and without the study's other modalities as prompts.
Raw losses mostly tell how difficult a study is. They are calibrated by a reference model (Watson et al., 2022, arXiv 2111.08440;
Carlini et al., 2022, arXiv 2112.03570) and by prompts: how much the prompts lower the loss (Zhai et al., 2024, arXiv 2405.14800).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcodi.diffusion.objective import add_noise, denoising_error, training_target
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.generation.contexts import PromptContexts
from medcodi.metrics.bootstrap import known_mean
from medcodi.metrics.paired import holm
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.networks.attention import Context
from medcodi.randomness import keyed_normal
from medcodi.trust.privacy.statistics import FALSE_ALARMS, ranked, separation, set_test, true_alarms

CONTEXTS = ("nothing", "prompts")  # that a loss is computed with
MODEL, REFERENCE = "model", "reference"


# ---- measuring -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def denoising_losses(
    model: MedCoDi,
    studies: HeldOutStudies,
    rows: Sequence[int],
    targets: Sequence[str],
    timesteps: Sequence[float],
    noises: int,
    seed: int,
) -> np.ndarray:
    """Errors of the denoisers: float32 ``[B, targets, contexts, T]``, means over the draws of noise; NaN where a target is absent.

    Noise is keyed by study, target and timestep: the same for every model whose latents have one shape, and for both contexts.
    """
    losses = np.full((len(rows), len(targets), len(CONTEXTS), len(timesteps)), np.nan, np.float32)
    contexts = PromptContexts(model)
    for column, target in enumerate(targets):
        places = [place for place, row in enumerate(rows) if target in studies.modalities[row]]
        if not places:
            continue
        own = [studies.studies[rows[place]].contents for place in places]
        ids = [studies.ids[rows[place]] for place in places]
        with model.lock:
            latents = latents_of(model, target, [contents[target] for contents in own])
            # Every other modality is a prompt; without any, both contexts are those of nothing.
            prompts = [
                {name: value for name, value in contents.items() if name != target and name in model.config.modalities}
                for contents in own
            ]
            context, null = contexts.contexts(prompts, [{} for _ in prompts])
            errors = losses_of_latents(model, target, latents, [null, context], ids, timesteps, noises, seed)
        losses[places, column] = errors.transpose(1, 0, 2)
    return losses


@torch.no_grad()
def losses_of_latents(
    model: MedCoDi,
    target: str,
    latents: Tensor,
    contexts: Sequence[Context],
    keys: Sequence[str],
    timesteps: Sequence[float],
    noises: int,
    seed: int,
) -> np.ndarray:
    """Errors of one denoiser: float32 ``[contexts, B, T]``; rows with equal ``keys`` see equal noise."""
    num_train_timesteps = model.schedule.config["num_train_timesteps"]
    both = Context.cat(list(contexts)).remembering()
    errors = np.zeros((len(contexts), len(latents), len(timesteps)), np.float32)
    for place, share in enumerate(timesteps):
        t = torch.full((len(latents),), int(share * num_train_timesteps), dtype=torch.long, device=latents.device)
        for draw in range(noises):
            noise = keyed_normal(
                [("audit noise", seed, key, target, place, draw) for key in keys], latents.shape[1:], latents.device
            )
            x_t = add_noise(model.schedule, latents, noise, t)
            wanted = training_target(model.schedule, latents, noise, t)
            # All contexts in one batch.
            repeat = (len(contexts), *[1] * (latents.ndim - 1))
            prediction = model.denoise({target: x_t.repeat(repeat)}, t.repeat(len(contexts)), both)[target]
            error = denoising_error(prediction, wanted.repeat(repeat)).reshape(len(contexts), -1)  # [contexts, B]
            errors[:, :, place] += error.cpu().numpy() / noises
    return errors


def latents_of(model: MedCoDi, modality: str, values: Sequence[Any]) -> Tensor:
    """Means of the latents' posteriors of some contents: ``[B, *latent_shape]``."""
    if MODALITIES[modality].kind != "image":
        return model.latent(modality, list(values)).float()
    return model.latent(modality, stacked(values).to(model.device)).float()


def stacked(images: Sequence[np.ndarray]) -> Tensor:
    """Images ``[H, W]`` of one size -> float32 ``[B, 1, H, W]``."""
    return torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in images]))[:, None]


# ---- figures ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Losses:
    """Losses of all studies, by model: float ``[N, targets, contexts, T]`` each; NaN where a study lacks the target."""

    targets: Sequence[str]
    timesteps: Sequence[float]
    of: Mapping[str, np.ndarray]  # `model`, perhaps `reference`

    def attacks(self) -> dict[tuple[str, str, str], np.ndarray]:
        """(target, context, attack) -> score of each study ``[N]``, higher for members; means over the timesteps of log losses."""
        logs = {name: np.log(np.maximum(losses, 1e-12)) for name, losses in self.of.items()}
        scores: dict[tuple[str, str, str], np.ndarray] = {}
        for column, target in enumerate(self.targets):
            own = logs[MODEL][:, column]  # [N, contexts, T]
            for place, context in enumerate(CONTEXTS):
                scores[target, context, "loss"] = -own[:, place].mean(1)
                if REFERENCE in logs:
                    scores[target, context, "reference"] = (logs[REFERENCE][:, column, place] - own[:, place]).mean(1)
            scores[target, CONTEXTS[1], "effect of prompts"] = (own[:, 0] - own[:, 1]).mean(1)
        return {key: values for key, values in scores.items() if np.isfinite(values).any()}

    @property
    def main_attack(self) -> str:
        """The attack that the gate judges: calibrated by the reference model where there is one."""
        return "reference" if REFERENCE in self.of else "loss"

    def main_scores(self, labels: np.ndarray) -> np.ndarray:
        """Score of each study by the main attack, with prompts: the mean over targets of its ranks, ``[N]``."""
        attacks = self.attacks()
        ranks = [
            ranked(attacks[target, CONTEXTS[1], self.main_attack], labels)
            for target in self.targets
            if (target, CONTEXTS[1], self.main_attack) in attacks
        ]
        return known_mean(np.stack(ranks), 0)


def membership_figures(
    losses: Losses, labels: np.ndarray, patients: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    """Every attack with its AUROC; the main one with true alarms and the set-level test; the family's p (Holm over all tests)."""
    left_out: list[dict[str, str]] = []
    main = losses.main_scores(labels)
    figures: dict[str, Any] = {
        "main": {
            "attack": losses.main_attack,
            "auroc": separation(main, labels, patients),
            "set_test": set_test(main, labels, patients),
            "true_alarms": {},
        }
    }
    for rate in FALSE_ALARMS:
        share = true_alarms(main, labels, patients, rate, resamples, seed, f"{rate}")
        if share is None:
            reason = f"needs {10 / rate:,.0f} non-members, so that ten of them are false alarms"
            left_out.append({"figure": f"true alarms at {rate:.1%} false alarms", "reason": reason})
        figures["main"]["true_alarms"][f"{rate:g}"] = share
    # Every attack by itself.
    rows = []
    for (target, context, attack), values in losses.attacks().items():
        if (auroc := separation(values, labels, patients)) is None:
            left_out.append({"figure": f"{attack} of {target} with {context}", "reason": "too few patients have it"})
            continue
        rows.append({"target": target, "context": context, "attack": attack, "auroc": auroc})
    figures["attacks"] = rows
    figures["timesteps"] = _by_timestep(losses, labels, patients)
    if REFERENCE not in losses.of:
        left_out.append({"figure": "attacks calibrated by a reference model", "reason": "no reference was given"})
    tests = [row["auroc"]["p_value"] for row in rows]
    tests += [test["p_value"] for test in (figures["main"]["auroc"], figures["main"]["set_test"]) if test]
    adjusted = holm(tests)
    for row, p in zip(rows, adjusted, strict=False):
        row["p_holm"] = p
    return {**figures, "p_value": min(adjusted, default=None), "num_tests": len(tests), "left_out": left_out}


def _by_timestep(losses: Losses, labels: np.ndarray, patients: Sequence[str]) -> list[dict[str, Any]]:
    """AUROC of the main attack with prompts at each timestep alone: where in the forward process the model remembers."""
    rows = []
    for column, target in enumerate(losses.targets):
        for place, share in enumerate(losses.timesteps):
            scores = -np.log(np.maximum(losses.of[MODEL][:, column, 1, place], 1e-12))
            if REFERENCE in losses.of:
                scores = scores + np.log(np.maximum(losses.of[REFERENCE][:, column, 1, place], 1e-12))
            if (auroc := separation(scores, labels, patients)) is not None:
                rows.append({"target": target, "timestep": share, "auroc": auroc["value"]})
    return rows
