"""Contexts of batches: every prompt is encoded once, and a row does not depend on the rows beside it."""

import numpy as np
import pytest
import torch

from medcodi.generation.contexts import PromptContexts

REPORTS = [
    "Clear.",
    "FINDINGS: Large left pleural effusion, nothing else. IMPRESSION: Large left effusion.",
    "Big heart.",
]
PICTURE = np.random.default_rng(0).random((32, 32), dtype=np.float32)


@pytest.fixture
def counted(tiny_model):
    """The model, and how many prompts its towers have seen."""
    seen = {"image": 0, "text": 0}
    towers = {
        "image": tiny_model.prompt_encoders.image_tower.transformer,
        "text": tiny_model.prompt_encoders.text_tower.transformer,
    }

    def count(kind):
        return lambda _module, inputs: seen.__setitem__(kind, seen[kind] + len(inputs[0]))

    hooks = [tower.register_forward_pre_hook(count(kind)) for kind, tower in towers.items()]
    yield tiny_model, seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("exact", [False, True])
def test_every_prompt_and_null_prompt_is_encoded_once(counted, exact):
    model, seen = counted
    contexts = PromptContexts(model, exact=exact)
    for _ in range(3):
        contexts.contexts([{"report": REPORTS[0]}] * 4 + [{"report": REPORTS[1], "frontal": PICTURE}], [{}] * 5)
    assert seen == {"text": 3, "image": 2}  # two reports and the empty one; one picture and the black one


def test_what_was_not_seen_for_long_is_forgotten(counted):
    model, seen = counted
    contexts = PromptContexts(model, capacity=1)
    for report in (REPORTS[0], REPORTS[1], REPORTS[0]):
        contexts.contexts([{"report": report}], [{}])
    assert seen["text"] == 4


def test_exact_rows_have_the_same_bytes_whatever_stands_beside_them(tiny_model):
    contexts, fresh = PromptContexts(tiny_model, exact=True), PromptContexts(tiny_model, exact=True)
    many, many_null = contexts.contexts([{"report": report} for report in REPORTS], [{}] * 3)
    one, one_null = fresh.contexts([{"report": REPORTS[2]}], [{}])
    assert torch.equal(many.tokens[2:], one.tokens) and torch.equal(many_null.tokens[2:], one_null.tokens)
    assert torch.equal(many.log_weight[2:], one.log_weight)


def test_a_request_without_prompts_has_all_null_prompts_whatever_stands_beside_it(tiny_model):
    contexts = PromptContexts(tiny_model)
    mixed, mixed_null = contexts.contexts([{}, {"report": REPORTS[0]}], [{}, {}])
    alone, _ = contexts.contexts([{}], [{}])
    weights = [context.log_weight[0].exp().sum() for context in (mixed, mixed_null, alone)]
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2])


def test_an_absent_prompt_weighs_nothing(tiny_model):
    context, null = PromptContexts(tiny_model).contexts([{"report": REPORTS[0]}, {"frontal": PICTURE}], [{}, {}])
    num_patches = tiny_model.prompt_encoders.max_tokens("image")
    assert (
        torch.isinf(context.log_weight[0, :num_patches]).all() and torch.isinf(null.log_weight[0, :num_patches]).all()
    )
    assert torch.isfinite(context.log_weight[1, :num_patches]).all()
