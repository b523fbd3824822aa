"""generate_many: the results of generate, in order, in batches, with constant memory."""

from itertools import count, islice

import numpy as np
import pytest

import medcodi
from medcodi.errors import DataError, PromptError
from medcodi.generation.bulk.streaming import WINDOW, Request, generate_many

PICTURE = np.random.default_rng(0).random((40, 40), dtype=np.float32)
REQUESTS = [
    Request("Large effusion.", "frontal", seed=3),
    Request({"frontal": PICTURE}, ["report"], seed=1, num_samples=3),
    Request({"frontal": PICTURE, "report": "Clear."}, ["lateral"], seed=2, weights={"report": 0.5}),
    Request("Clear.", "frontal", seed=9),
    Request({}, ["lateral"], seed=4),
    Request({"report": "Clear.", "lateral": PICTURE}, ["frontal"], weights={"lateral": 0.0}),
]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_each_result_is_what_generate_gives(tiny_model, batch_size):
    assert medcodi.generate_many is generate_many
    made = list(generate_many(REQUESTS, model=tiny_model, batch_size=batch_size))
    for request, found in zip(REQUESTS, made, strict=True):
        alone = medcodi.generate(
            request.prompts, request.targets, model=tiny_model, seed=request.seed, num_samples=request.num_samples,
            weights=request.weights,
        )  # fmt: skip
        assert found.direction == alone.direction and found.provenance == alone.provenance
        for one, other in zip(found.samples, alone.samples, strict=True):
            assert one.seed == other.seed and set(one.contents) == set(other.contents)
            for name, image in one.contents.items():
                if isinstance(image, np.ndarray):
                    np.testing.assert_allclose(image, other.contents[name], atol=5e-5)


def test_requests_with_equal_targets_share_batches(tiny_model):
    done = []
    mixed = [Request(f"Report {number}.", ("frontal", "lateral")[number % 2], seed=number) for number in range(8)]
    assert len(list(generate_many(mixed, model=tiny_model, batch_size=4, on_batch=done.append))) == 8
    assert done == [4, 8]


def test_an_endless_list_is_drawn_from_as_results_are_asked_for(tiny_model):
    drawn = []

    def endless():
        for number in count():
            drawn.append(number)
            # One target is rare: its requests do not hold the others up for ever.
            yield Request("Clear.", "lateral" if number == 0 else "frontal", seed=number)

    made = list(islice(generate_many(endless(), model=tiny_model, batch_size=2), 4))
    assert [one.samples[0].seed for one in made] == [0, 1, 2, 3] and len(drawn) <= (WINDOW + 1) * 2 + 2


def test_mappings_and_texts_are_requests(tiny_model):
    made = list(generate_many(["Clear.", {"frontal": PICTURE}], model=tiny_model))
    assert [str(one.direction) for one in made] == ["report->frontal+lateral", "frontal->lateral+report"]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (Request("x", "latral"), PromptError, "request 1: unknown modality 'latral'"),
        (Request({"frontal": "none.png"}), DataError, "request 1: no image file at none.png"),
        (Request("x", num_samples=0), PromptError, "request 1: num_samples is 0"),
    ],
)
def test_a_bad_request_is_named_after_what_stood_before_it(tiny_model, bad, error, message):
    stream = generate_many([Request("Clear.", "frontal"), bad], model=tiny_model)
    assert next(stream).direction.targets == ("frontal",)
    with pytest.raises(error, match=message):
        next(stream)


def test_bad_settings_are_said_at_the_call():
    with pytest.raises(PromptError, match="batch_size is 0"):
        generate_many([], model="nowhere", batch_size=0)
    with pytest.raises(PromptError, match="did you mean 'ddim'"):
        generate_many([], model="nowhere", sampler="dimm")
