"""Reports per second: 16 of 100 tokens in one batch with a key/value cache, beside one at a time without.

    python benchmarks/decoding.py [--threads 2] [--repeats 3] [--peer-reports 16]

On a CPU (a GPU: benchmarks/gpu.py). The decoder is the full-size one (GPT-2, 12 layers of 768, 50,260 tokens) with random
weights; both decode greedily from the same latents. The peer is the loop below: the whole prefix through the network for each new token, as a decoder
without a cache does, with logits for the last position only. Both must give the same tokens; the share that agrees is stated.
About 10 minutes on two cores. Writes benchmarks/results/decoding.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from measuring import fill, machine, report, spread
from torch import Tensor
from torch.nn import functional as F

from medcodi.networks.report_autoencoder import ReportAutoencoder, ReportAutoencoderConfig
from medcodi.networks.tokenizer import AbsentTokenizer

REPORTS, TOKENS, GOAL = 16, 100, 15.0


def autoencoder(
    device: str, dtype: torch.dtype, *, width: int = 768, layers: int = 12, tokens: int = TOKENS
) -> ReportAutoencoder:
    """Optimus, by default at full size, with an encoder of one layer: it is not used here."""
    config = ReportAutoencoderConfig(
        latent_dim=width,
        width=width,
        encoder_layers=1,
        decoder_layers=layers,
        heads=width // 64 or 1,
        max_length=tokens + 1,
        decoder_positions=1024,
        posterior_bias=False,
    )
    network = ReportAutoencoder(config, AbsentTokenizer(1000, "report"), AbsentTokenizer(50_260, "decoder"))
    filled = fill(network, device=device, dtype=dtype)
    assert isinstance(filled, ReportAutoencoder)
    return filled


def without_cache(network: ReportAutoencoder, z: Tensor) -> Tensor:
    """Greedy ids of one report ``[1, TOKENS + 1]``, the whole prefix anew for each token."""
    ids = torch.full((1, 1), network.decoder_tokenizer.bos_id, device=z.device)
    bias = network.to_embedding(z)
    for _ in range(TOKENS):
        embedded = network.decoder.wte(ids) + bias.unsqueeze(1)
        hidden = network.decoder(inputs_embeds=embedded, past_key_values=network._memory(z)).last_hidden_state
        logits = F.linear(hidden[:, -1], network.decoder.wte.weight)
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids


def on_cpu(repeats: int, peer_reports: int) -> dict[str, Any]:
    """Ours, all reports at once, and the peer, report by report, in turns."""
    network = autoencoder("cpu", torch.float32)
    z = torch.randn(REPORTS, 768, generator=torch.Generator().manual_seed(0))
    ours, theirs, agreeing = [], [], 0
    network.generate_ids(z[:1])
    for _ in range(repeats):
        started = time.perf_counter()
        ids = network.generate_ids(z)
        ours.append(REPORTS / (time.perf_counter() - started))
        started = time.perf_counter()
        peers = torch.cat([without_cache(network, z[row : row + 1]) for row in range(peer_reports)])
        theirs.append(peer_reports / (time.perf_counter() - started))
        assert ids.shape == (REPORTS, TOKENS + 1), "a report ended early: choose other weights"
        agreeing = float((ids[:peer_reports, 1:-1] == peers[:, 1:-1]).float().mean())  # ours ends the last one
    return {
        "reports": REPORTS,
        "tokens": TOKENS,
        "peer_reports_timed": peer_reports,
        "reports_per_second": {"ours": spread(ours), "peer": spread(theirs)},
        "runs": repeats,
        "times_faster": round(spread(ours)["median"] / spread(theirs)["median"], 1),
        "tokens_that_agree": agreeing,
        "goal": GOAL,
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-reports", type=int, default=REPORTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    command = (
        f"python benchmarks/decoding.py --threads {arguments.threads} --repeats {arguments.repeats}"
        f" --peer-reports {arguments.peer_reports}"
    )
    found: dict[str, Any] = {"command": command, "machine": machine()}
    found |= on_cpu(arguments.repeats, arguments.peer_reports)
    rates = found["reports_per_second"]
    rows = [
        [f"ours: {REPORTS} in a batch, cached", rates["ours"]["median"], found["times_faster"], GOAL],
        ["one at a time, no cache", rates["peer"]["median"], 1, ""],
    ]
    report("decoding", found, [f"{TOKENS} tokens each", "reports/s", "times faster", "goal"], rows)


if __name__ == "__main__":
    main()
