from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcodi.errors import PromptError
from medcodi.modality import MODALITIES, in_table_order
from medcodi.study import Direction, all_directions

SUBSETS = st.lists(st.sampled_from(sorted(MODALITIES)), unique=True)


@given(prompts=SUBSETS, targets=SUBSETS)
def test_a_direction_is_disjoint_and_has_a_target_or_is_refused(prompts: list[str], targets: list[str]) -> None:
    if targets and not set(prompts) & set(targets):
        direction = Direction(tuple(prompts), tuple(targets))
        assert Direction.parse(str(direction)) == direction
        assert (direction in all_directions(MODALITIES)) == bool(prompts)
    else:
        with pytest.raises(PromptError):
            Direction(tuple(prompts), tuple(targets))


@given(chosen=st.permutations(sorted(MODALITIES)), num=st.integers(0, 3))
def test_the_order_in_which_modalities_are_named_does_not_matter(chosen: list[str], num: int) -> None:
    assert in_table_order(chosen[:num]) == in_table_order(reversed(chosen[:num]))


@given(text=st.text(max_size=40))
def test_any_text_is_a_direction_or_a_refusal(text: str) -> None:
    try:
        direction = Direction.parse(text)
    except PromptError:
        return
    assert direction.targets
