"""The fixture's inputs through MedCoDi: each function yields names of the fixture's outputs and what MedCoDi makes them to be.

The published code calls a report a text; ``ctx_a`` and ``ctx_b`` are prompts of one vector, ``ctx_uncond`` the null prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from medcodi.diffusion.guidance import guided
from medcodi.diffusion.sampling import sample_jointly
from medcodi.model import MedCoDi
from medcodi.networks.attention import Context
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.networks.tokenizer import AbsentTokenizer

OURS = {"frontal": "frontal", "lateral": "lateral", "text": "report"}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
PAIRS = ("frontal+lateral", "frontal+text", "text+lateral")
Named = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """A model, and the fixture's inputs and settings."""

    model: MedCoDi
    inputs: Mapping[str, Tensor]
    guidance: float

    def latents(self, *theirs: str) -> dict[str, Tensor]:
        """Noisy latents by our names."""
        return {OURS[name]: self.inputs[f"x_{name}"] for name in theirs}

    def context(self, name: str) -> Context:
        """A prompt."""
        return Context(self.inputs[name])


def word_tokenizer(vocab_size: int, specials: Mapping[str, int]) -> Tokenizer:
    """A vocabulary of ``w0 w1 w2 ...`` with special tokens at given ids: a text for every row of ids."""
    words = {f"w{index}": index for index in range(vocab_size) if index not in specials.values()} | dict(specials)
    unknown = next(word for word in words if word not in specials)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def as_text(ids: Tensor, specials: range) -> str:
    """The text whose ids these are, without the special tokens."""
    return " ".join(f"w{index}" for index in ids.tolist() if index not in specials)


@contextmanager
def with_joint_attention(model: MedCoDi, rule: Any) -> Iterator[None]:
    """The model under another rule of who hears whom."""
    config = model.config
    model.config = replace(config, joint_attention=rule)
    yield
    model.config = config


# ---- denoisers -----------------------------------------------------------------------------------------------------
def single(case: Case) -> Named:
    for name, ours in OURS.items():
        for label, context in (("single", "ctx_a"), ("single_ctx3", "ctx_multi")):
            eps = case.model.denoise(case.latents(name), case.inputs["t"], case.context(context))[ours]
            yield f"{label}/{name}/eps", eps


def ordinary_skip(case: Case) -> Named:
    for name, ours in OURS.items():
        unet: Any = case.model.denoisers[ours]
        unet.deepest_skip = "ordinary"
        eps = case.model.denoise(case.latents(name), case.inputs["t"], case.context("ctx_a"))[ours]
        unet.deepest_skip = "published"
        yield f"diag_unit_forward/{name}/eps", eps


def joint(case: Case) -> Named:
    context, t = case.context("ctx_a"), case.inputs["t"]
    for group in (*PAIRS, "frontal+lateral+text"):
        latents = case.latents(*group.split("+"))
        for ours, vector in case.model.environments(latents, t).items():
            yield f"joint_V/{group}/{THEIRS[ours]}", vector[:, None]
        for ours, eps in case.model.denoise(latents, t, context).items():
            yield f"joint_own/{group}/{THEIRS[ours]}/eps", eps
    with with_joint_attention(case.model, "others"):
        for group in PAIRS:
            for ours, eps in case.model.denoise(case.latents(*group.split("+")), t, context).items():
                yield f"joint_swapped/{group}/{THEIRS[ours]}/eps", eps


# ---- guidance, mixing and sampling -----------------------------------------------------------------------------------
def _encoding(pooled: Tensor) -> PromptEncoding:
    return PromptEncoding(pooled[:, 0], pooled, torch.ones(pooled.shape[:2], dtype=torch.bool))


def _mixed(case: Case, weights: Mapping[str, float]) -> Context:
    """Null prompts, then prompts, mixed by the model: ``ctx_a`` as the report, ``ctx_b`` as the frontal image."""
    prompts = {"report": case.inputs["ctx_a"], "frontal": case.inputs["ctx_b"]}
    used = {name: prompts[name] for name in weights}
    mix = {name: torch.full((len(used[name]),), weight) for name, weight in weights.items()}
    null = {name: _encoding(case.inputs["ctx_uncond"]) for name in used}
    given = {name: _encoding(pooled) for name, pooled in used.items()}
    return Context.cat([case.model.context(null, mix), case.model.context(given, mix)])


def guidance(case: Case) -> Named:
    cases: tuple[tuple[str, tuple[str, ...], dict[str, float]], ...] = (
        ("cfg_one_context", ("frontal",), {"report": 1.0}),
        ("cfg_mix_half", ("text",), {"report": 1.0, "frontal": 1.0}),
        ("cfg_mix_half", ("lateral",), {"report": 1.0, "frontal": 1.0}),
        ("cfg_mix_text1_frontal3", ("lateral",), {"report": 1.0, "frontal": 3.0}),
        ("cfg_joint_own", ("text", "lateral"), {"report": 1.0}),
    )
    for label, names, weights in cases:
        both, seen = _mixed(case, weights), {}

        def denoise(
            latents: dict[str, Tensor], t: Tensor, both: Context = both, seen: dict = seen
        ) -> dict[str, Tensor]:
            seen |= case.model.denoise(latents, t, both)
            return dict(seen)

        result = guided(denoise, case.guidance)(case.latents(*names), case.inputs["t"])
        for name in names:
            halves = seen[OURS[name]].chunk(2)
            yield f"{label}/{name}/eps_uncond", halves[0]
            yield f"{label}/{name}/eps_cond", halves[1]
            yield f"{label}/{name}/eps_guided", result[OURS[name]]


def _trajectory(case: Case, label: str, start: dict[str, Tensor], both: Context) -> Named:
    """Five guided steps: the states after each, and the x0 that each eps stands for."""
    seen: dict[str, list[tuple[Tensor, Tensor, int]]] = {ours: [] for ours in start}
    denoise = guided(lambda latents, t: case.model.denoise(latents, t, both), case.guidance)

    def watched(latents: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        eps = denoise(latents, t)
        for ours, z in latents.items():
            seen[ours].append((z.clone(), eps[ours].clone(), int(t[0])))
        return eps

    schedule = case.model.config.schedule
    rows = len(next(iter(start.values())))
    last = sample_jointly(
        watched,
        {ours: z.shape[1:] for ours, z in start.items()},
        list(range(rows)),
        sampler=case.model.config.generation.sampler,
        schedule={
            "num_train_timesteps": schedule.num_train_timesteps,
            "beta_start": schedule.beta_start,
            "beta_end": schedule.beta_end,
            "beta_schedule": schedule.beta_schedule,
            "prediction_type": schedule.prediction_type,
        },
        num_inference_steps=5,
        start=start,
    )
    for ours, steps in seen.items():
        assert [t for _, _, t in steps] == [800, 600, 400, 200, 0]
        yield f"{label}/{THEIRS[ours]}/xt", torch.stack([z for z, _, _ in steps[1:]] + [last[ours]])
        kept = [case.model.schedule.alphas_cumprod[t] for _, _, t in steps]
        x0 = [(z - (1 - a).sqrt() * eps) / a.sqrt() for (z, eps, _), a in zip(steps, kept, strict=True)]
        yield f"{label}/{THEIRS[ours]}/pred_x0", torch.stack(x0)


def sampling(case: Case) -> Named:
    one, two = _mixed(case, {"report": 1.0}), _mixed(case, {"report": 1.0, "frontal": 1.0})
    yield from _trajectory(case, "ddim_T2F", case.latents("frontal"), one)
    yield from _trajectory(case, "ddim_FL2T", case.latents("text"), two)
    yield from _trajectory(case, "ddim_F2TL_own", case.latents("text", "lateral"), one)
    with with_joint_attention(case.model, "others"):
        yield from _trajectory(case, "ddim_F2TL_swapped", case.latents("text", "lateral"), one)


# ---- autoencoders and prompt encoders ----------------------------------------------------------------------------------
def image_autoencoder(case: Case) -> Named:
    autoencoder: Any = case.model.autoencoders["image"]
    images, z = case.inputs["vae_image"] * 0.5 + 0.5, case.inputs["vae_z"]  # ours takes [0, 1]
    yield "vae/moments", autoencoder.net._encode(images * 2 - 1)
    mean, logvar = autoencoder.encode(images)
    yield "vae/mean", mean
    yield "vae/logvar_clamped", logvar
    yield "vae/latent_scaled_mean", case.model.latent("frontal", images)
    yield "vae/mean_from_1ch", autoencoder.encode(images[:, :1])[0]
    yield "vae/decode_raw", autoencoder.decode_unclamped(z)
    yield "vae/decode_scaled", autoencoder.decode_unclamped(autoencoder.unscaled(z * 0.18215))


def report_autoencoder(case: Case) -> Named:
    autoencoder: Any = case.model.autoencoders["text"]
    ids, z = case.inputs["bert_ids"], case.inputs["gpt_z"]
    states = autoencoder.encoder(input_ids=ids, attention_mask=(ids != 0).long())
    yield "optimus/bert_last_hidden", states.last_hidden_state
    yield "optimus/bert_pooled", states.pooler_output
    mean, logvar = autoencoder.encode_ids(ids, ids != 0)
    yield "optimus/mu", mean
    yield "optimus/logvar", logvar
    reports = [as_text(row, range(3)) for row in ids]
    yield "optimus/latent_scaled", case.model.latent("report", reports)
    yield "optimus/logits_teacher_forced", autoencoder.logits(z, case.inputs["gpt_ids"])
    yield "optimus/greedy_ids_max20", autoencoder.generate_ids(z)


def stopped_ids(case: Case, stops: Tensor) -> Tensor:
    """Greedy ids where each report ends at a token of its own; -1 after the end."""
    autoencoder: Any = case.model.autoencoders["text"]
    own, rows = autoencoder.decoder_tokenizer, []
    for z, stop in zip(case.inputs["gpt_z"], stops.tolist(), strict=True):
        autoencoder.decoder_tokenizer = AbsentTokenizer(own.vocab_size, "decoder")
        autoencoder.decoder_tokenizer.eos_id = stop
        rows.append(autoencoder.generate_ids(z[None])[0])
    autoencoder.decoder_tokenizer = own
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def prompt_encoders(case: Case) -> Named:
    encoders: Any = case.model.prompt_encoders
    specials = range(97, 99)
    texts = [as_text(row, specials) for row in case.inputs["clip_ids"]]
    encoding = case.model.encode_prompts("report", texts)
    yield "clip/text_emb", encoding.pooled[:, None]
    norms = _text_norms(encoders, case.inputs["clip_ids"])
    yield "clip/text_features_unnormalised", encoding.pooled * norms
    yield "clip/text_emb_empty", case.model.null_prompts("report", 2).pooled[:, None]
    features = encoders.image_tower(case.inputs["clip_pixels"])[0]
    yield "clip/image_features_unnormalised", features
    yield "clip/image_emb", (features / features.norm(dim=-1, keepdim=True))[:, None]


def _text_norms(encoders: Any, ids: Tensor) -> Tensor:
    """Length of each text's features before it is made 1, from the tower's own forward: ``[B, 1]``."""
    return encoders.text_tower(ids).norm(dim=-1, keepdim=True)


def end_to_end(case: Case) -> Named:
    """A prompt's ids to an image and a report, five guided joint steps between."""
    model = case.model
    text = as_text(case.inputs["clip_ids"][0], range(97, 99))
    weights = {"report": torch.ones(1)}
    context = model.context({"report": model.encode_prompts("report", [text])}, weights)
    both = Context.cat([model.null_context(["report"], 1), context])
    start = {OURS[name]: case.inputs[f"e2e_x_{name}"] for name in ("frontal", "text")}
    found = dict(_trajectory(case, "e2e_ddim_own", start, both))
    yield from found.items()
    image: Any = model.autoencoders["image"]
    painted = image.decode_unclamped(image.unscaled(found["e2e_ddim_own/frontal/xt"][-1]))
    yield "e2e/image", (painted * 0.5 + 0.5).clamp(0.0, 1.0)
    report: Any = model.autoencoders["text"]
    yield "e2e/greedy_ids_max20", report.generate_ids(report.unscaled(found["e2e_ddim_own/text/xt"][-1]))[0]


PARTS: tuple[Callable[[Case], Named], ...] = (
    *(single, ordinary_skip, joint, guidance, sampling),
    *(image_autoencoder, report_autoencoder, prompt_encoders, end_to_end),
)
