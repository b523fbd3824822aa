"""Manifests: what a row means, which rows are told to be bad, and which files are refused."""

import json

import pytest

from medcodi.errors import DataError
from medcodi.generation.bulk.manifest import BadRow, Row, RowDefaults, read_manifest


def rows_of(tmp_path, text, name="m.csv", keep=(), **defaults):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path, RowDefaults(**defaults), keep)


def test_every_column(tmp_path):
    (row,) = rows_of(
        tmp_path,
        'id,frontal,report,targets,seed,num_samples,weights,sex\n'
        's1,a/f.png,"Large,\nleft.",lateral,7,2,frontal=0.5 report=2,F\n',
        keep=["sex"],
    )  # fmt: skip
    assert row == Row(
        number=1, id="s1", direction=row.direction, prompts={"frontal": tmp_path / "a/f.png", "report": "Large,\nleft."},
        weights={"frontal": 0.5, "report": 2.0}, seed=7, num_samples=2, copied={"sex": "F"},
    )  # fmt: skip
    assert str(row.direction) == "frontal+report->lateral" and [row.study_id(k) for k in (0, 1)] == ["s1-0", "s1-1"]


def test_json_lines_say_the_same(tmp_path):
    line = {
        "id": "s1", "frontal": "f.png", "report": "Clear.", "targets": ["lateral"], "seed": 7,
        "num_samples": 2, "weights": {"frontal": 0.5},
    }  # fmt: skip
    (one,) = rows_of(tmp_path, json.dumps(line) + "\n\n", "m.jsonl")
    (other,) = rows_of(
        tmp_path,
        "id\tfrontal\treport\ttargets\tseed\tnum_samples\tweights\ns1\tf.png\tClear.\tlateral\t7\t2\tfrontal=.5",
    )
    assert one == other


def test_a_record_in_columns_in_one_cell_in_a_file_and_in_json(tmp_path):
    text = 'record.age,record.sex,record\n071Y,F,\n"71,5",,\n,,"age=71, sex=F"\n,,r.json\n'
    rows = rows_of(tmp_path, text, targets=("frontal",))
    prompts = [row.prompts.get("record") for row in rows]
    assert [json.loads(prompt) for prompt in prompts[:2]] == [{"age": "071Y", "sex": "F"}, {"age": "71,5"}]
    assert prompts[2:] == ["age=71, sex=F", tmp_path / "r.json"]
    lines = [{"record": {"age": 71, "sex": "F"}}, {"record.age": 71}]
    rows = rows_of(tmp_path, "\n".join(map(json.dumps, lines)), "m.jsonl")
    assert [json.loads(row.prompts["record"]) for row in rows] == [{"age": 71, "sex": "F"}, {"age": "71"}]
    (bad,) = rows_of(tmp_path, "record.age,record\n71,sex=F\n")
    assert isinstance(bad, BadRow) and "both record and record.age are given" in bad.message
    (row,) = rows_of(tmp_path, "record.age\n71\n", keep=("record.age",))
    assert row.copied == {"record.age": "71"}


def test_empty_cells_get_the_defaults_and_a_seed_of_their_id(tmp_path):
    rows = rows_of(tmp_path, "id,report\na,x\nb,x\n", targets=("frontal",), num_samples=3)
    again = rows_of(tmp_path, "id,report\nc,x\nb,x\n", targets=("frontal",), num_samples=3)
    other = rows_of(tmp_path, "id,report\nb,x\n", seed=1)
    assert all(row.direction.targets == ("frontal",) and row.num_samples == 3 for row in rows)
    assert rows[1].seed == again[1].seed != rows[0].seed and other[0].seed != rows[1].seed
    assert [row.id for row in rows_of(tmp_path, "report\nx\ny\n")] == ["row-1", "row-2"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("a,x,,latral,,,", "did you mean 'lateral'"),
        ("a,x,,report,,,", "both prompt and target"),
        ("a,x,r.txt,,,,", "both report and report_file"),
        ("a,x,,,seven,,", "seed is 'seven'"),
        ("a,x,,,-1,,", "seed is -1"),
        ("a,x,,,,0,", "num_samples is 0"),
        ("a,x,,,,,report=much", "weights holds"),
        ("a,x,,,,,report=0", "weight 0"),
        ("a,x,,,,,frontal=1", "not a prompt"),
        ("a/b,x,,,,,", "cannot name a folder"),
        ("../a,x,,,,,", "cannot name a folder"),
        ("good,x,,,,,", "row 1 has the id"),
        ("a,x,,,,,,,", "9 cells"),
        ("a,Heart is", "2 cells"),
        ("a,nan,,,,,report=1", "not a prompt"),
        ('a,"x"y,,,,,', "not CSV"),
        (b"a,\xff,,,,,", "not UTF-8"),
    ],
)
def test_a_bad_row_is_told_and_the_rest_goes_on(tmp_path, cells, message):
    header = b"id,report,report_file,targets,seed,num_samples,weights\ngood,x,,,,,\n"
    rows = rows_of(tmp_path, header + (cells if isinstance(cells, bytes) else cells.encode()) + b"\nlast,x,,,,,\n")
    assert [type(row) for row in rows] == [Row, BadRow, Row] and [row.number for row in rows] == [1, 2, 3]
    assert message in rows[1].message and rows[2].id == "last"


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"id": "\xff"}', b'{"seed": [1]}', b'{"num_samples": true}',
                                  b'{"report": "x", "report": "y"}', b"[" * 5000, b'{"seed": 1' + b"0" * 5000 + b"}",
                                  b'{"weights": NaN}'])  # fmt: skip
def test_bad_json_lines(tmp_path, line):
    rows = rows_of(tmp_path, b'{"report": "x"}\n' + line + b'\n{"report": "y"}\n', "m.jsonl")
    assert [type(row) for row in rows] == [Row, BadRow, Row]


@pytest.mark.parametrize(
    ("text", "keep", "message"),
    [
        ("id,frontl\na,b\n", (), "did you mean 'frontal'.*--keep frontl"),
        ("id,report\na,b\n", ("sex",), "has no such column"),
        ("id,report,row\na,b,c\n", ("row",), "results.csv has its own"),
        ("id,report\n", (), "no rows"),
        ("", (), "no rows"),
        ("id,id\na,b\n", (), "column twice"),
    ],
)
def test_files_that_are_refused(tmp_path, text, keep, message):
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path, text, keep=keep)
    with pytest.raises(DataError, match="no manifest"):
        read_manifest(tmp_path / "none.csv", RowDefaults())


@pytest.mark.parametrize("name", ["CON", "nul.1", "a.", "lpt1.x", "../a", "a/b"])
def test_an_id_that_cannot_name_a_folder_everywhere_is_a_bad_row(tmp_path, name):
    (row,) = rows_of(tmp_path, f"id,report\n{name},Clear.\n")
    assert isinstance(row, BadRow) and "cannot name a folder" in row.message


def test_ids_that_differ_by_case_only_name_one_folder_on_some_systems(tmp_path):
    first, second, third = rows_of(tmp_path, "id,report,num_samples\ns1-0,Clear.,1\nS1,Clear.,2\nS2,Clear.,1\n")
    assert isinstance(first, Row) and isinstance(third, Row)
    assert isinstance(second, BadRow) and "row 1 has the id 'S1-0' already" in second.message
