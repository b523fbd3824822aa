"""Systems that are evaluated: other systems' files are matched with the held-out studies, read, or listed as excluded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcodi.data.generated_files import list_generated
from medcodi.distributed import ALONE
from medcodi.errors import DataError
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.evaluation.systems.contents import ContentFolder
from medcodi.evaluation.systems.systems import BundleSystem, ExternalSystem, ModelSystem
from medcodi.model import tiny_model
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction
from tests.unit.data.test_generated_files import image

R_F = Direction.parse("report->frontal")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Six toy studies' frontals, one of them cut short, and one study that no data hold."""
    for index in range(6):
        image(tmp_path / f"in/report_to_frontal/toy{index}/frontal.png")
    broken = tmp_path / "in/report_to_frontal/toy2/frontal.png"
    broken.write_bytes(broken.read_bytes()[:40])
    image(tmp_path / "in/report_to_frontal/stranger/frontal.png")
    return tmp_path


def test_an_unreadable_file_stops_or_is_listed_never_replaced(files: Path, toy_dataset) -> None:
    held, contents_folder = HeldOutStudies(toy_dataset(8), shard_size=4), ContentFolder(files / "contents")
    listing = list_generated(files / "in")
    with pytest.raises(DataError, match="study toy2") as refusal:
        ExternalSystem("theirs", listing, held).produce(R_F, contents_folder, ALONE, lambda done: None)
    assert "--exclude-unreadable" in str(refusal.value)
    output = ExternalSystem("theirs", listing, held, True).produce(R_F, contents_folder, ALONE, lambda done: None)
    assert [held.ids[row] for row in output.rows] == ["toy0", "toy1", "toy3", "toy4", "toy5"]
    reasons = {one.study_id: one.reason for one in output.excluded}
    assert "without a reference" in reasons["stranger"] and "toy2" in reasons
    contents = contents_folder.read_rows(R_F, output.shards, [3, 5])
    assert set(contents) == {3, 5} and np.asarray(contents[3]["frontal"]).shape == (32, 32)
    assert set(output.files["frontal"]) == {"toy0", "toy1", "toy3", "toy4", "toy5"} and output.sizes == {"40×40": 5}


def test_a_system_of_other_studies_is_refused(files: Path, toy_dataset) -> None:
    listing = {R_F: {"stranger": list_generated(files / "in")[R_F]["stranger"]}}
    with pytest.raises(DataError, match="none of the 1 studies"):
        ExternalSystem("theirs", listing, HeldOutStudies(toy_dataset(8)))


def test_a_bundles_system_gives_what_is_listed(toy_dataset, tmp_path: Path) -> None:
    held = HeldOutStudies(toy_dataset(8), shard_size=4)
    system = BundleSystem("theirs", held, {R_F: [1, 6, 7]})
    counts: list[int] = []
    output = system.produce(R_F, ContentFolder(tmp_path), ALONE, counts.append)
    assert system.directions == (R_F,) and output.rows == [1, 6, 7] and counts == [3]
    assert [shard.number for shard in output.shards] == [0, 1] and not list(tmp_path.iterdir())


def test_a_system_without_any_study_is_refused(toy_dataset) -> None:
    with pytest.raises(DataError, match="system 'empty' holds no generated study"):
        ExternalSystem("empty", {Direction.parse("frontal->report"): {}}, HeldOutStudies(toy_dataset(4)))


def test_a_model_says_how_many_prompts_it_does_not_read_to_their_ends(toy_dataset) -> None:
    dataset, model = toy_dataset(8), tiny_model(seed=0)
    system = ModelSystem(
        name="ours", model=model, directions=(R_F,), held_out=HeldOutStudies(dataset, shard_size=4),
        generation=GenerationConfig().resolved(model), seed=0, fingerprint="",
    )  # fmt: skip
    assert "truncated_prompts" not in system.describe()
    assert system.describe()["sha256"] == model.identity()  # the name that it has everywhere
    system.held_out.studies.without_images[3].contents["report"] = "No effusion. " * 100
    assert system.describe()["truncated_prompts"] == {"report": {"studies": 8, "truncated": 1}}
