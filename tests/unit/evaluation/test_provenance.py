"""The head of the results: nothing in it depends on where a run is stored."""

from __future__ import annotations

import hashlib

from medcodi.config import from_dict
from medcodi.distributed import ALONE
from medcodi.evaluation.annotate import Annotators
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.inputs import Inputs
from medcodi.evaluation.provenance import NOT_THE_PROTOCOL, machine, protocol, scoring_protocol, versions
from medcodi.evaluation.studies import HeldOutStudies


def test_the_protocol_is_the_same_wherever_a_run_is_stored(toy_dataset) -> None:
    held_out = HeldOutStudies(toy_dataset(9, patients=4))

    def head(**values) -> dict:
        data = {"source": "phantom", "num_studies": 9, "image_size": 32}
        config = from_dict(EvaluateConfig, {"data": data, **values})
        return protocol(Inputs(config, held_out, Annotators(), [], ALONE))

    first = head()
    assert first == head(out="elsewhere", device="cpu", cache="there", resume=False)
    assert not set(NOT_THE_PROTOCOL) & set(first["config"]) and first["data"]["num_patients"] == 4
    ids = "\n".join(f"toy{index}" for index in range(9))
    assert first["data"]["study_ids_sha256"] == hashlib.sha256(ids.encode()).hexdigest()
    assert first["readers"]["images"] is None and first["readers"]["reports"]["name"] == "rules"
    assert head(seed=3)["scoring"] == scoring_protocol(from_dict(EvaluateConfig, first["config"])) | {"seed": 3}


def test_versions_name_what_is_missing() -> None:
    assert {"python", "torch", "medcodi"} <= set(versions()) and machine()["cores"] >= 1
