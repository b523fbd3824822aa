from __future__ import annotations

import pickle

import pytest

from medcodi.errors import DataError, MedCoDiError, MissingExtraError, PromptError, did_you_mean, first_line, one_of


def test_message_holds_failure_expectation_and_mend() -> None:
    error = DataError("image is 0 x 0", expected="pixels", fix="leave it out.")
    assert str(error) == "image is 0 x 0. Expected pixels. Fix: leave it out."
    assert isinstance(error, ValueError)


def test_message_without_expectation_and_mend_is_one_sentence() -> None:
    assert str(MedCoDiError("it broke.")) == "it broke."


def test_three_points_are_meant() -> None:
    error = MedCoDiError("it broke", fix="give another out=...")
    assert str(error).endswith("Fix: give another out=...") and str(MedCoDiError("choose out=…")) == "choose out=…"


def test_missing_extra_is_also_an_import_error_and_names_the_extra() -> None:
    error = MissingExtraError("pydicom", extra="dicom", needed_for="DICOM files")
    assert isinstance(error, ImportError) and isinstance(error, MedCoDiError)
    assert "pip install 'medcodi[dicom]'" in str(error)
    assert "pydicom" in error.failed


@pytest.mark.parametrize(
    "error",
    [DataError("a", expected="b", fix="c"), MissingExtraError("pydicom", extra="dicom", needed_for="DICOM files")],
)
def test_a_refusal_is_the_same_in_another_process(error: MedCoDiError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error) and back.fix == error.fix


def test_did_you_mean_names_the_nearest_whatever_the_case() -> None:
    assert did_you_mean("LATTERAL", ["frontal", "lateral", "report"]).startswith("did you mean 'lateral'?")


def test_did_you_mean_lists_all_where_none_is_near() -> None:
    assert did_you_mean("xyz", ["frontal", "report"]) == "known: frontal, report"


def test_one_of_gives_the_value_back() -> None:
    assert one_of("sampler", "ddim", ["ddim", "unipc"]) == "ddim"


def test_one_of_takes_an_iterator() -> None:
    with pytest.raises(PromptError, match="did you mean 'unipc'"):
        one_of("sampler", "unipcc", iter(["ddim", "unipc"]), PromptError)


def test_one_of_refuses_with_the_class_asked_for() -> None:
    with pytest.raises(PromptError, match="unknown sampler 'dimm'.*did you mean 'ddim'"):
        one_of("sampler", "dimm", ["ddim", "unipc"], PromptError)


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("one\ntwo"), "one"), (RuntimeError(""), "RuntimeError"), (OSError("\n"), "OSError")]
)
def test_an_error_that_says_nothing_is_named_by_its_kind(error: Exception, line: str) -> None:
    assert first_line(error) == line
