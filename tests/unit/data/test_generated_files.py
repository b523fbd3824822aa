"""Generated files: folders and tables, listed by direction and study, read or refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.data.generated_files import GeneratedFile, direction_folder, list_generated, read_generated
from medcodi.data.refusals import Refused
from medcodi.errors import DataError, MedCoDiError
from medcodi.study import Direction

R_F, F_R = Direction.parse("report->frontal"), Direction.parse("frontal->report")


def image(path: Path, size: tuple[int, int] = (40, 40), level: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, level, np.uint8) if level is not None else np.arange(size[0] * size[1]).reshape(size) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_folders_of_directions_and_of_one_direction(tmp_path: Path) -> None:
    image(tmp_path / "all/report_to_frontal/s1/frontal.png")
    image(tmp_path / "all/report_to_frontal/s2/frontal.jpg")
    (tmp_path / "all/frontal_to_report/s1").mkdir(parents=True)
    (tmp_path / "all/frontal_to_report/s1/report.txt").write_text("Clear lungs.")
    listing = list_generated(tmp_path / "all")
    assert set(listing) == {R_F, F_R} and set(listing[R_F]) == {"s1", "s2"}
    assert listing[R_F]["s2"]["frontal"].path == tmp_path / "all/report_to_frontal/s2/frontal.jpg"
    assert set(list_generated(tmp_path / "all", [F_R])) == {F_R}
    one = list_generated(tmp_path / "all/report_to_frontal", [R_F])
    assert set(one[R_F]) == {"s1", "s2"}
    with pytest.raises(DataError, match="does not name the direction"):
        list_generated(tmp_path / "all/report_to_frontal")
    image(tmp_path / "all/report-to-lateral/s1/lateral.png")
    with pytest.raises(
        DataError, match="report-to-lateral is no folder of a direction.*did you mean 'report_to_lateral'"
    ):
        list_generated(tmp_path / "all", [F_R])


def test_a_table(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "r.txt").write_text("No effusion.")
    table = tmp_path / "t.csv"
    table.write_text(
        "study_id,prompts,frontal,report\ns1,report,a.png,\ns1,frontal,,r.txt\ns2,frontal,,Small left effusion.\n"
    )
    listing = list_generated(table)
    assert listing[R_F]["s1"]["frontal"].path == tmp_path / "a.png"
    assert listing[F_R]["s1"]["report"].path == tmp_path / "r.txt"
    assert listing[F_R]["s2"]["report"].text == "Small left effusion."
    table.write_text("study_id,direction,report,report_text\ns1,frontal->report,r.txt,Told here.\n")
    assert list_generated(table)[F_R]["s1"]["report"].text == "Told here."
    (tmp_path / "empty.txt").write_text("")  # an empty report was generated: it is judged
    table.write_text("study_id,direction,report,id\ns1,frontal->report,empty.txt,7\ns2,frontal->report,r.txt,7\n")
    listing = list_generated(table)
    assert set(listing[F_R]) == {"s1", "s2"}  # a column of their own named id is not ours
    assert read_generated(listing[F_R]["s1"]["report"], "report").value == ""
    table.write_text("study_id,id,row,sample,seed,direction,report\nrow-1-0,s1,1,0,5,frontal->report,r.txt\n")
    assert set(list_generated(table)[F_R]) == {"s1"}  # of medcodi synthesize: id names the held-out study


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("study_id,direction,frontal\ns1,report->frontal,a\ns1,report->frontal,b\n", "'s1' of report->frontal twice"),
        ("study_id,frontals,direction\ns1,a,report->frontal\n", "did you mean 'frontal'"),
        ("study,direction,frontal\ns1,report->frontal,a\n", "expected columns study_id"),
        ("study_id,direction,frontal\n,report->frontal,a\n", "line 2: no study_id"),
        ("study_id,direction,frontal\ns1,report->frontals,a\n", "frontals"),
        ("study_id,direction,frontal\n", "holds no rows"),
        (
            "study_id,direction,report\ns1,frontal->report,Clear.\ns2,frontal->report,\n",
            "line 3, report: the cell is empty",
        ),
        ("study_id,direction,frontal\ns1,frontal->report,a.png\n", "line 2, report: the cell is empty"),
        ("study_id,prompts,frontal\ns1,report,\n", "line 2: .*has no targets"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(MedCoDiError, match=f"(?i){message}"):
        list_generated(tmp_path / "t.csv")


def test_a_modality_told_twice_and_no_folder(tmp_path: Path) -> None:
    image(tmp_path / "report_to_frontal/s1/frontal.png")
    image(tmp_path / "report_to_frontal/s1/frontal.jpg")
    with pytest.raises(DataError, match="holds frontal twice"):
        list_generated(tmp_path)
    with pytest.raises(DataError, match="no generated contents"):
        list_generated(tmp_path / "nowhere")


def test_odd_contents_are_read_and_broken_ones_refused(tmp_path: Path) -> None:
    black = GeneratedFile("b", path=image(tmp_path / "b.png", (64, 32), 0))
    content = read_generated(black, "frontal", 32)
    assert isinstance(content.value, np.ndarray) and content.value.shape == (32, 32) and content.value.max() == 0
    assert content.size == "32×64" and content.sha256 == hashlib.sha256((tmp_path / "b.png").read_bytes()).hexdigest()
    with pytest.raises(Refused):
        read_generated(black, "frontal", allow_constant=False)
    assert read_generated(GeneratedFile("c", path=image(tmp_path / "c.png", (48, 50))), "frontal").value.shape == (
        48,
        50,
    )
    assert read_generated(GeneratedFile("t", text="  \n"), "report").value == ""
    assert read_generated(GeneratedFile("t", text="Heart  normal."), "report").value == "Heart normal."
    (tmp_path / "cut.png").write_bytes((tmp_path / "c.png").read_bytes()[:60])
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\x80")
    for name, target in (("cut.png", "frontal"), ("none.png", "frontal"), ("latin.txt", "report")):
        with pytest.raises(Refused):
            read_generated(GeneratedFile(name, path=tmp_path / name), target, 32)


def test_a_folders_name_gives_its_direction() -> None:
    assert direction_folder(Direction.parse("frontal+report->lateral")) == "frontal+report_to_lateral"
    assert direction_folder(Direction((), ("report",))) == "nothing_to_report"


def test_a_generated_record_may_have_a_column_for_each_field(tmp_path: Path) -> None:
    rows = [
        "study_id,direction,record.age,record.sex,record",
        "s1,frontal->record,71,F,",
        "s2,frontal->record,,,r.json",
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    listing = list_generated(tmp_path / "t.csv")[Direction.parse("frontal->record")]
    assert json.loads(listing["s1"]["record"].text) == {"age": "71", "sex": "F"}
    assert listing["s2"]["record"].path == tmp_path / "r.json"
