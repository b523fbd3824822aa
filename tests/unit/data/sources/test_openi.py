"""Source ``openi`` on a small collection of its form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.config import from_dict
from medcodi.data.dataset import open_dataset
from medcodi.data.preparation.ledger import Ledger
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sources.openi import _key
from medcodi.errors import DataError

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
  <meta type="rr"/>
  <uId id="{uid}"/>
  <MedlineCitation><Article><Abstract>
    <AbstractText Label="COMPARISON">None.</AbstractText>
    <AbstractText Label="INDICATION">Cough.</AbstractText>
    <AbstractText Label="FINDINGS">{findings}</AbstractText>
    <AbstractText Label="IMPRESSION">{impression}</AbstractText>
  </Abstract></Article></MedlineCitation>
  <MeSH><major>Cardiomegaly/mild  </major><automatic>heart</automatic></MeSH>
  {images}
</eCitation>
"""


class Collection:
    """Reports and images, as they are written."""

    def __init__(self, root: Path) -> None:
        self.root, self.views = root, ["uid,filename,projection"]
        (root / "ecgen-radiology").mkdir(parents=True)
        (root / "NLMCXR_png").mkdir()

    def study(
        self, number: int, *views: str, uid: str = "", caption: str = "Chest PA and lateral", **text: str
    ) -> None:
        names = [f"CXR{number}_IM-{number:04d}-{place}001" for place, _ in enumerate(views, start=1)]
        for name, view in zip(names, views, strict=True):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)
            Image.fromarray(pixels).save(self.root / "NLMCXR_png" / f"{name}.png")
            self.views.append(f"{number},{name.removeprefix('CXR')}.dcm.png,{view}")
        images = "".join(f'<parentImage id="{name}"><caption>{caption}</caption></parentImage>' for name in names)
        told = {"findings": f"Heart {number} is big.", "impression": "Big heart.", **text}
        report = XML.format(uid=uid or f"CXR{number}", images=images, **told)
        (self.root / "ecgen-radiology" / f"{number}.xml").write_text(report)

    def prepare(self, *, table: bool = True, **settings) -> Ledger:
        if table:
            (self.root / "indiana_projections.csv").write_text("\n".join(self.views) + "\n")
        values = {"source": "openi", "path": str(self.root), "out": str(self.root.parent / "out"), "image_size": 32}
        return prepare(from_dict(PrepareConfig, {**values, "val": 0.0, "test": 0.0, "overwrite": True, **settings}))


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    found = Collection(tmp_path / "openi")
    for number in (1, 2, 10):
        found.study(number, "Lateral", "Frontal")
    return found


def left_out(ledger: Ledger) -> dict[str, str]:
    return {Path(entry.file).name: entry.reason for entry in ledger.entries if entry.reason}


def test_studies_of_two_views_and_a_report(tmp_path: Path, collection: Collection) -> None:
    ledger = collection.prepare()
    assert ledger.counts()["modality"] == {"frontal": 3, "lateral": 3, "report": 3}
    studies = list(open_dataset(tmp_path / "out", "train"))
    assert [study.study_id for study in studies] == ["CXR1", "CXR2", "CXR10"]  # by number
    assert studies[2].report == "FINDINGS: Heart 10 is big.\nIMPRESSION: Big heart."
    assert studies[0].metadata["mesh"] == ["Cardiomegaly/mild"]
    assert studies[0].images["frontal"].shape == (32, 32)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CXR1_1_IM-0001-3001", "1_IM-0001-3001.dcm.png", True),
        ("CXR2_IM-0652-1001.png", "2_IM-0652-1001.dcm.png", True),
        ("CXR12_IM-0001-1001", "2_IM-0001-1001.dcm.png", False),
    ],
)
def test_an_image_in_all_its_spellings(one: str, other: str, same: bool) -> None:
    assert (_key(one) == _key(other)) is same


def test_what_is_left_out_and_why(collection: Collection) -> None:
    collection.study(11, "Frontal", "Frontal")
    collection.study(12, "Frontal", findings="", impression="")
    collection.study(13, "Frontal", uid="CXR2")
    collection.study(14, "Oblique")
    collection.study(15, "Frontal")
    (collection.root / "NLMCXR_png" / "CXR15_IM-0015-1001.png").unlink()
    collection.study(16, "Frontal")
    (collection.root / "ecgen-radiology" / "16.xml").write_text("<eCitation>")
    ledger = collection.prepare(max_bad_fraction=0.5)
    assert left_out(ledger) == {
        "CXR11_IM-0011-2001.png": "second image of a view",
        "12.xml": "report: no findings or impression",
        "13.xml": "duplicate id",
        "CXR14_IM-0014-1001.png": "unknown view",
        "CXR14:report": "study left out",
        "CXR15_IM-0015-1001": "missing file",
        "CXR15:report": "study left out",
        "16.xml": "report: unreadable",
    }
    assert ledger.left_out == 4 and ledger.num_kept == 5


def test_without_a_table_a_caption_may_tell(collection: Collection) -> None:
    collection.study(11, "?", caption="PA chest")
    ledger = collection.prepare(table=False)
    assert ledger.counts()["modality"] == {"frontal": 1, "report": 1} and ledger.left_out == 3
    assert any("options.projections" in entry.detail for entry in ledger.entries)


def test_a_report_alone_is_a_study(collection: Collection) -> None:
    collection.study(11)
    assert collection.prepare().counts()["modality"]["report"] == 4


def test_what_cannot_be_used_is_refused(tmp_path: Path, collection: Collection) -> None:
    with pytest.raises(DataError, match=r"no reports \(\*.xml\).*ecgen-radiology"):
        collection.prepare(options={"reports": str(tmp_path)})
    with pytest.raises(DataError, match=r"no images \(\*.png\)"):
        collection.prepare(options={"images": str(tmp_path)})
    with pytest.raises(DataError, match="no table at"):
        collection.prepare(options={"projections": "nowhere.csv"})
    with pytest.raises(DataError, match="no folder at"):
        collection.prepare(path=str(tmp_path / "nowhere"))
    collection.views.append("1,1_IM-0001-1001.dcm.png,Frontal")
    collection.study(1, "Lateral")
    with pytest.raises(DataError, match="'Lateral', and 'Frontal' before|'Frontal', and 'Lateral' before"):
        collection.prepare()
    assert not (tmp_path / "out").exists()


def test_two_parts_of_one_label_are_one_section(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "openi")
    collection.study(1, "Frontal", findings='Heart is big.</AbstractText><AbstractText Label="Findings">Left effusion.')
    collection.prepare()
    assert "Heart is big. Left effusion." in str(open_dataset(tmp_path / "out", "train")[0].report)
