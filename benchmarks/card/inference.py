"""Inference and passes of the networks: the image denoiser beside ``diffusers``', whole films and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import product
from typing import Any

import decoding
import torch
from measuring import fill, seconds_per_call
from measuring.networks import (
    FILM_COMPONENTS,
    context,
    denoiser_inputs,
    model_config,
    operations,
    our_denoiser,
    our_films,
    our_model,
    their_denoiser,
    their_films,
    their_pipeline,
)
from torch import nn

from card import Row, Setup, attempt, free_memory
from card.machine import DTYPES, peak
from medcodi.model.execution import ExecutionConfig
from medcodi.networks.attention import Context
from medcodi.training.execution import attention_kernels, autocast, choose_attention

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Networks = dict[str, tuple[nn.Module, Callable[..., Any]]]  # name -> network, and its call with latents, times, tokens


# ---- the denoiser ----------------------------------------------------------------------------------------------------
def denoiser(setup: Setup) -> Iterator[Row]:
    """One step, forward as in sampling and forward with backward as in training, ours and the peer, in both layouts."""
    for precision in setup.precisions:
        yield from forward(setup, precision)
        yield from passes(setup, precision)


def _networks(setup: Setup, dtype: torch.dtype) -> Networks:
    config = model_config(setup.size)
    ours = fill(our_denoiser(config), seed=0, device=setup.device, dtype=dtype)
    theirs = fill(their_denoiser(config), seed=1, device=setup.device, dtype=dtype)
    return {
        "ours": (ours, ours),
        "diffusers": (theirs, lambda z, t, heard: theirs(z, t, heard.tokens).sample),
    }


def _tokens(setup: Setup) -> int:
    return 8 if setup.size == "tiny" else 77


def forward(setup: Setup, precision: str) -> Iterator[Row]:
    """One step of guided sampling, both halves in one batch; weights cast, keys and values of the prompts kept (ours)."""
    config, networks = model_config(setup.size), _networks(setup, DTYPES[precision])
    for layout in LAYOUTS:
        if layout == "channels_last":
            ExecutionConfig(channels_last=True).prepare(networks["ours"][0])
            networks["diffusers"][0].to(memory_format=LAYOUTS[layout])
        for images, (name, (_, call)) in product(setup.of_size((1, 16, 64), (1,)), networks.items()):
            z, t, tokens = denoiser_inputs(config, 2 * images, _tokens(setup), setup.device)
            z, heard = z.to(DTYPES[precision]), context(tokens.to(DTYPES[precision]))
            row = {"what": "forward", "network": name, "precision": precision, "layout": layout, "images": images}
            flops = operations(config, 2 * images, _tokens(setup))

            def step(call: Any = call, z: Any = z, t: Any = t, heard: Any = heard) -> Any:
                with torch.no_grad():
                    return call(z, t, heard)

            yield attempt(row, lambda step=step, flops=flops: _timed(setup, step, flops, precision))
            if setup.on_gpu and images < 64:
                # Replayed as one graph: what the launches of single kernels cost.
                row = row | {"what": "forward, as one CUDA graph"}
                yield attempt(row, lambda step=step, flops=flops: _timed(setup, graphed(step), flops, precision))
    del networks
    free_memory()


def graphed(step: Callable[[], Any]) -> Callable[[], Any]:
    """The kernels of a step, captured once and launched together."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capture wants a warm-up on another stream
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def passes(setup: Setup, precision: str) -> Iterator[Row]:
    """Forward and backward with float32 weights under autocast, no optimiser: what a training step at least takes."""
    config, networks = model_config(setup.size), _networks(setup, torch.float32)
    choose_attention(networks["ours"][0], precision, torch.device(setup.device))
    batch = setup.of_size(32 if setup.on_gpu else 2, 8)
    z, t, tokens = denoiser_inputs(config, batch, _tokens(setup), setup.device)
    flops = operations(config, batch, _tokens(setup), backward=True)
    offsets = tokens.new_zeros(tokens.shape[:2])
    # A CPU's backward of the peer's GroupNorm in channels_last ends the process (torch 2.12).
    for layout, (name, (network, call)) in product(tuple(LAYOUTS)[: 2 if setup.on_gpu else 1], networks.items()):
        network.requires_grad_(True).to(memory_format=LAYOUTS[layout])

        def step(network: nn.Module = network, call: Any = call) -> None:
            with autocast(torch.device(setup.device), precision):
                loss = call(z, t, Context(tokens, offsets)).float().square().mean()
            loss.backward()
            network.zero_grad(set_to_none=True)

        row = {"what": "forward and backward", "network": name, "precision": precision, "layout": layout}
        with attention_kernels(precision, torch.device(setup.device)) if name == "ours" else nullcontext():
            row = attempt(row | {"batch": batch}, lambda step=step: _timed(setup, step, flops, precision))
        yield row
    del networks
    free_memory()


def _timed(setup: Setup, step: Callable[[], Any], flops: float, precision: str) -> Row:
    """Seconds, operations per second (counted on our network: the peer's differ by less than 1 %), share of the peak."""
    seconds = seconds_per_call(step, setup.device, budget=setup.budget)
    rate = flops / seconds["median"]
    share = round(rate / peak(setup, precision), 4)
    return {"seconds": seconds, "tflops": float(f"{rate / 1e12:.4g}"), "share_of_peak": share}


# ---- films and reports -----------------------------------------------------------------------------------------------
def films(setup: Setup) -> Iterator[Row]:
    """Reports to films, prompts and decoding included, beside the peer's pipeline; then reports from latents."""
    config, dtype = model_config(setup.size), torch.bfloat16
    few, many = setup.of_size((20, 50), (2, 3))
    batches = setup.of_size((1, 16, 64), (1,))

    # Ours: the preset in both layouts, and the peer's sampler at its number of steps.
    model = our_model(config, FILM_COMPONENTS, setup.device, dtype)
    for layout in LAYOUTS:
        plans = [("dpm++", few, batch) for batch in batches]
        plans += [("ddim", many, min(16, batches[-1]))] if layout == "contiguous" else []
        for sampler, steps, batch in plans:
            row = {"what": "films", "network": "ours", "layout": layout, "sampler": sampler, "steps": steps}
            call = partial(our_films, model, batch, sampler, steps)
            with ExecutionConfig(channels_last=layout == "channels_last").running(model, FILM_COMPONENTS):
                row = attempt(row | {"batch": batch}, lambda call=call, batch=batch: _per_second(setup, call, batch))
            yield row
    del model, call
    free_memory()

    # The peer: at its number of steps, and the largest batch at ours.
    pipeline = their_pipeline(config, setup.device, dtype)
    for steps, batch in [*((many, batch) for batch in batches[:2]), (few, batches[-1])]:
        row = {"what": "films", "network": "diffusers", "layout": "contiguous", "sampler": "ddim", "steps": steps}
        call = partial(their_films, pipeline, config, batch, steps)
        yield attempt(row | {"batch": batch}, lambda call=call, batch=batch: _per_second(setup, call, batch))
    del pipeline, call
    free_memory()
    yield from reports(setup)


def reports(setup: Setup) -> Iterator[Row]:
    """Reports of 100 tokens from latents, at three batch sizes."""
    width, layers, tokens = setup.of_size((768, 12, decoding.TOKENS), (32, 1, 8))
    network = decoding.autoencoder(setup.device, torch.bfloat16, width=width, layers=layers, tokens=tokens)
    for batch in setup.of_size((1, 16, 64), (2,)):
        z = torch.randn(batch, width, generator=torch.Generator().manual_seed(0)).to(setup.device)

        def decode(z: Any = z) -> Any:
            with torch.no_grad():
                return network.generate_ids(z)

        row = {"what": "reports", "tokens": tokens, "batch": batch}
        yield attempt(row, lambda decode=decode, batch=batch: _per_second(setup, decode, batch))


def _per_second(setup: Setup, call: Callable[[], Any], number: int) -> Row:
    seconds = seconds_per_call(call, setup.device, budget=setup.budget, rounds=3)
    return {"seconds": seconds, "per_second": float(f"{number / seconds['median']:.4g}")}
