"""The machine: versions, and its limits (matrix products, copies, attention kernels). Needs PyTorch only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import metadata
from itertools import product
from typing import Any

import torch
from measuring import machine, seconds_per_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from card import Row, Setup, attempt

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PACKAGES = (
    "torch triton diffusers transformers open_clip_torch pydantic einops torchmetrics datasets accelerate deepspeed"
)
BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)


def measure(setup: Setup) -> Iterator[Row]:
    """Environment, peaks of products and copies, attention."""
    yield environment(setup)
    yield from products(setup)
    yield from copies(setup)
    yield from attention(setup)


def environment(setup: Setup) -> Row:
    """Versions, the card, and the settings of PyTorch under which everything here runs."""
    row: Row = {"what": "environment", **machine(setup.device)}
    row["packages"] = {name: version_of(name) for name in PACKAGES.split()}
    row["c_compiler"] = shutil.which("gcc") or shutil.which("clang")  # torch.compile needs one
    row["settings"] = {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
    if setup.on_gpu:
        card = torch.cuda.get_device_properties(0)
        row["card"] = {
            "memory_gib": round(card.total_memory / 2**30, 1),
            "multiprocessors": card.multi_processor_count,
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": nvidia_smi("driver_version"),
            "clocks_mhz": nvidia_smi("clocks.sm,clocks.max.sm,clocks.mem"),
        }
    return row


def version_of(package: str) -> str | None:
    """The installed version; None: it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def nvidia_smi(query: str) -> str | None:
    """The first card's values; None without the program."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.splitlines()
    return lines[0].strip() if lines else None


# ---- products --------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=16)
def product_rate(device: str, precision: str, size: int, budget: float) -> float:
    """Floating-point operations per second of a square product of random numbers (constants would be faster)."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.rand(size, size, generator=generator, device=device).sub_(0.5).to(DTYPES[precision]) for _ in range(2)
    )
    out = torch.empty_like(a)
    return 2.0 * size**3 / seconds_per_call(lambda: torch.mm(a, b, out=out), device, budget=budget)["median"]


def peak(setup: Setup, precision: str) -> float:
    """The rate that shares refer to: of a large product at the precision, in operations per second."""
    return product_rate(setup.device, precision, setup.of_size(8192 if setup.on_gpu else 2048, 512), setup.budget)


def products(setup: Setup) -> Iterator[Row]:
    """Square products at several precisions; float32 with and without TF32."""
    sizes = setup.of_size((4096, 8192) if setup.on_gpu else (1024, 2048), (512,))
    for precision, size in product((*setup.precisions, *(("fp16", "fp32") if setup.on_gpu else ())), sizes):
        row = {"what": "product", "precision": precision, "size": size}
        yield attempt(row, lambda p=precision, n=size: _teraflops(product_rate(setup.device, p, n, setup.budget)))
    if setup.on_gpu:
        torch.set_float32_matmul_precision("high")
        product_rate.cache_clear()
        row = {"what": "product", "precision": "fp32 by TF32", "size": sizes[-1]}
        yield attempt(row, lambda: _teraflops(product_rate(setup.device, "fp32", sizes[-1], setup.budget)))
        torch.set_float32_matmul_precision("highest")
        product_rate.cache_clear()


def _teraflops(rate: float) -> Row:
    return {"tflops": float(f"{rate / 1e12:.4g}")}


# ---- copies ----------------------------------------------------------------------------------------------------------
def copies(setup: Setup) -> Iterator[Row]:
    """Bandwidth of memory (bytes read plus bytes written), and between host and card."""
    num_bytes = setup.of_size(2**30 if setup.on_gpu else 2**28, 2**20)
    here = torch.ones(num_bytes // 4, device=setup.device)
    copy = torch.empty_like(here)
    places: dict[str, tuple[int, Callable[[], Any]]] = {"within its memory": (2 * num_bytes, lambda: copy.copy_(here))}
    if setup.on_gpu:
        pageable = torch.ones(num_bytes // 16)
        pinned = pageable.pin_memory()
        part = here[: len(pinned)]
        places |= {
            "host to card, page-locked": (num_bytes // 4, lambda: part.copy_(pinned, non_blocking=True)),
            "host to card, ordinary memory": (num_bytes // 4, lambda: part.copy_(pageable)),
            "card to host, page-locked": (num_bytes // 4, lambda: pinned.copy_(part, non_blocking=True)),
        }
    for where, (moved, call) in places.items():

        def rate(moved: int = moved, call: Callable[[], Any] = call) -> Row:
            seconds = seconds_per_call(call, setup.device, budget=setup.budget)["median"]
            return {"gb_per_second": float(f"{moved / seconds / 1e9:.4g}")}

        yield attempt({"what": "copy", "where": where}, rate)


# ---- attention -------------------------------------------------------------------------------------------------------
def attention(setup: Setup) -> Iterator[Row]:
    """Every kernel at the shapes of the full-size denoiser: to its own positions, and to 77 tokens with logit offsets."""
    batch, heads = setup.of_size((32, 8), (2, 2))
    shapes = setup.of_size([(1024, 1024, 40), (256, 256, 80), (64, 64, 160), (1024, 77, 40)], [(16, 16, 8), (16, 5, 8)])
    for (queries, keys, dim), backend in product(shapes, BACKENDS):
        row = {"what": "attention", "kernel": backend.name, "batch": batch, "heads": heads}
        row |= {"queries": queries, "keys": keys, "head_dim": dim}
        tensors = [
            torch.randn(batch, heads, length, dim, dtype=torch.bfloat16, device=setup.device, requires_grad=True)
            for length in (queries, keys, keys)
        ]
        offsets = None if keys == queries else tensors[0].new_zeros(batch, 1, 1, keys)

        def times(tensors: list[Any] = tensors, offsets: Any = offsets, backend: SDPBackend = backend) -> Row:
            gradient = torch.randn_like(tensors[0])

            def forward() -> Any:
                with sdpa_kernel([backend]):
                    return F.scaled_dot_product_attention(*tensors, attn_mask=offsets)

            with torch.no_grad():
                once = seconds_per_call(forward, setup.device, budget=setup.budget / 4)
            both = seconds_per_call(
                lambda: torch.autograd.grad(forward(), tensors, gradient), setup.device, budget=setup.budget / 4
            )
            return {"forward": once, "forward and backward": both}

        yield attempt(row, times)
