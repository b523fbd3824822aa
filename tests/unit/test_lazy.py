"""Names of a package that are imported on first use."""

from __future__ import annotations

import pytest

from medcodi.lazy import lazy_names


def test_a_name_is_that_of_its_module_and_an_old_name_that_of_the_new_one() -> None:
    get = lazy_names("medcodi", {"Study": ".study", "Examination": "medcodi.study:Study"})
    assert get("Study") is get("Examination") and get("Study").__module__ == "medcodi.study"
    with pytest.raises(AttributeError, match="module 'medcodi' has no attribute 'Direction'"):
        get("Direction")
