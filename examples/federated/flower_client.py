"""A site of a Flower federation whose ``fit`` is a run of MedCoDi: low-rank, private, from the weights that the server sends.

    flower-superlink --insecure                                            # at the coordinator
    python examples/federated/flower_client.py --server HOST:9092 --data data/mine --base models/public

Flower (``pip install flwr``) moves the weights and averages them (``flwr.server.strategy.FedAvg``); MedCoDi trains. Every round is
a run of its own, with its own promise; a patient's epsilons and deltas add up over the rounds, so each round spends its share of
``--epsilon``. The server's strategy sends the number of the round (``on_fit_config_fn=lambda number: {"round": number}``).

Flower pins older packages than MedCoDi's constraints.txt, so the two are not installed together here: our side of this file is
tested without Flower, the connection is not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcodi.config import from_dict
from medcodi.model import MedCoDi
from medcodi.model.adapter import ADAPTER, read_adapter
from medcodi.model.merging import merge
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train


class Site:
    """The methods that Flower calls of a ``NumPyClient``; what is exchanged is the denoiser of one modality."""

    def __init__(self, base: str, settings: dict[str, Any], folder: Path, target: str = "frontal") -> None:
        """Take the model that all sites start from, and the keys of the site's runs: data, steps, low_rank, privacy."""
        self.base, self.settings, self.folder, self.target = base, settings, folder, target

    def get_parameters(self, config: dict[str, Any]) -> list[np.ndarray]:
        """The weights of the base's denoiser."""
        return weights(MedCoDi.from_pretrained(self.base), self.target)

    def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> tuple[list[np.ndarray], int, dict[str, Any]]:
        """Train from the server's weights; returns the new weights, the number of patients, and what the round has spent."""
        number = int(config["round"])
        folder = self.folder / f"round-{number:03d}"
        # The model of this round: the base with the denoiser that the server sent.
        model = MedCoDi.from_pretrained(self.base)
        state = model.denoisers[self.target].state_dict()
        model.denoisers[self.target].load_state_dict(
            {name: torch.from_numpy(np.asarray(value)) for name, value in zip(state, parameters, strict=True)}
        )
        start = model.save_pretrained(folder / "start")

        # A run from it, and its adapter merged: averages of weights are exact where those of factors would not be.
        stage = {"name": "diffuse", "options": {"targets": [self.target]}}
        values = {**self.settings, "stage": stage, "init": str(start), "out": str(folder / "run"), "seed": number}
        adapter = train(from_dict(TrainConfig, values)) / ADAPTER
        promise = read_adapter(adapter).training["privacy"]
        metrics = {"epsilon": promise["epsilon"], "delta": promise["delta"]}
        return weights(merge([adapter], base=start), self.target), promise["patients"], metrics


def weights(model: MedCoDi, target: str) -> list[np.ndarray]:
    """The denoiser of one modality as arrays, in the order of its state."""
    return [value.numpy() for value in model.denoisers[target].state_dict().values()]


def main() -> None:
    """Join a federation."""
    import flwr

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="HOST:PORT of the coordinator")
    parser.add_argument("--data", required=True, help="a prepared dataset of this site")
    parser.add_argument("--base", default="demo", help="the public model that all sites start from")
    parser.add_argument("--rounds", type=int, default=5, help="each spends this share of epsilon")
    parser.add_argument("--epsilon", type=float, default=8.0, help="of all rounds")
    arguments = parser.parse_args()
    settings = {
        "data": arguments.data,
        "steps": 100,
        "batch": {"global_size": 64, "micro_size": 16},
        "optimizer": {"lr": 1e-3},
        "low_rank": {"rank": 8, "layers": ["attention"]},
        "privacy": {"epsilon": arguments.epsilon / arguments.rounds, "delta": 1e-6, "clip": 0.1},
    }

    class Client(Site, flwr.client.NumPyClient):
        """The site as Flower knows it."""

    site = Client(arguments.base, settings, Path("runs/federation"))
    flwr.client.start_client(server_address=arguments.server, client=site.to_client())


if __name__ == "__main__":
    main()
