"""The record autoencoder: it learns a small table, ignores what is missing, and decodes within the schema."""

import torch

from medcodi.networks.records import RecordAutoencoder, RecordAutoencoderConfig
from medcodi.record import RecordConfig

SCHEMA = RecordConfig(
    fields={
        "age": {"low": 0, "high": 120},
        "sex": {"values": ("F", "M")},
        "crp": {"low": 0.1, "high": 500, "scale": "log", "digits": 1},
    }
)


def build() -> RecordAutoencoder:
    torch.manual_seed(0)
    return RecordAutoencoder(RecordAutoencoderConfig(latent_dim=8, width=32), SCHEMA)


def records(num: int) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    ages = torch.randint(20, 90, (num,), generator=generator).tolist()
    return [
        {"age": age, "sex": "FM"[age % 2], **({"crp": float(1 + age)} if row % 3 else {})}
        for row, age in enumerate(ages)
    ]


def test_it_learns_to_reconstruct():
    model, table = build(), records(256)
    model.tokens.fit(table)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        loss = model.reconstruction_loss(table, torch.randn(256, 8), beta=1e-4).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decoded = model.decode(model.latent(table))
    assert sum(abs(out["age"] - row["age"]) for out, row in zip(decoded, table, strict=True)) / 256 < 4
    assert sum(out["sex"] == row["sex"] for out, row in zip(decoded, table, strict=True)) > 250
    assert all(SCHEMA.parse(out) == out for out in decoded)  # every field, each in its range


def test_missing_fields_cost_nothing():
    model = build()
    loss = model.reconstruction_loss([{}, {"sex": "F"}])
    assert loss.numbers.tolist() == [0, 0] and loss.categories[0] == 0 and loss.categories[1] > 0
    assert loss.loss.requires_grad and loss.kl.shape == (2,)


def test_the_decoder_stays_within_the_plausible_range():
    decoded = build().decode(100 * torch.randn(16, 8, generator=torch.Generator().manual_seed(0)))
    assert all(0 <= row["age"] <= 120 and 0.1 <= row["crp"] <= 500 for row in decoded)


def test_a_sampled_latent_is_the_mean_plus_noise():
    model = build()
    noise = torch.ones(1, 8)
    mean, logvar = model.encode([{"age": 40}])
    torch.testing.assert_close(model.latent([{"age": 40}], noise), mean + (0.5 * logvar).exp())
