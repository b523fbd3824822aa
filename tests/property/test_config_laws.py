from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from medcodi.config import apply_overrides, config, from_dict, to_dict, to_yaml

KEYS = st.text("abcdefghij_", min_size=1, max_size=6)
PLAIN = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text("abc xyz", max_size=8)


@config
class Inner:
    rate: float = 0.0
    names: tuple[str, ...] = ()


@config
class Outer:
    count: int
    inner: Inner | None = None


OUTERS = st.builds(
    Outer,
    count=st.integers(-(10**9), 10**9),
    inner=st.none()
    | st.builds(
        Inner,
        rate=st.floats(allow_nan=False, allow_infinity=False),
        names=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    ),
)


@given(value=OUTERS)
def test_a_config_survives_dict_and_yaml(value: Outer) -> None:
    assert from_dict(Outer, to_dict(value)) == value
    assert from_dict(Outer, yaml.safe_load(to_yaml(value))) == value


@given(path=st.lists(KEYS, min_size=1, max_size=4), value=PLAIN)
def test_an_override_is_read_back_where_it_was_put(path: list[str], value: object) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    node: object = apply_overrides({}, [f"{'.'.join(path)}={text}"])
    for key in path:
        assert isinstance(node, dict)
        node = node[key]
    assert node == value


@given(first=st.integers(), second=st.integers())
def test_the_last_override_wins(first: int, second: int) -> None:
    assert apply_overrides({"a": {"b": 0}}, [f"a.b={first}", f"a.b={second}"]) == {"a": {"b": second}}
