"""How a cache is made: resumed, verified, refused, and by the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.app.cli import main
from medcodi.data.loading import collate
from medcodi.errors import DataError
from medcodi.model import MedCoDi, tiny_model
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.storage.atomic import partial_path
from medcodi.storage.job_folder import JobFolder
from medcodi.training.caching import EncodedStudies, cache_key
from medcodi.training.caching.format import CACHE, NULLS, plan_shards
from medcodi.training.caching.make_cache import _Encoder
from tests.unit.storage.test_atomic import files_of_at_most
from tests.unit.training.caching.studies import SIZE, STUDIES, Noise, contents, copied, made


def test_with_pooled_contexts_no_tokens_are_kept(tmp_path: Path) -> None:
    pooled = tiny_model(seed=0, context="pooled")
    pooled.trained_stages = ("autoencode", "align")
    dataset, samples = Noise(4), (0, 1, 2, 3)
    read = made(pooled, tmp_path / "train", dataset)
    assert not any("tokens" in name for name in np.load(tmp_path / "train/part-00000.npy").dtype.names)
    stage, draw = build_stage("diffuse", pooled).eval(), StepRandomness(seed=0, step=0, samples=samples)
    fresh = collate([dataset[sample] for sample in samples], samples, SIZE)
    with torch.no_grad():
        assert float(stage(read.read_batch(samples), draw).loss) == pytest.approx(
            float(stage(fresh, draw).loss), rel=2e-3
        )


def test_two_ranks_write_the_bytes_of_one(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    dataset, shards = Noise(), plan_shards(STUDIES)
    key = cache_key(model, dataset)
    job = JobFolder(tmp_path / "train", CACHE, key.to_json())
    with job.opened():
        for shard in reversed(shards):
            _Encoder(model, dataset, job, key, 12, 0).encode({shard: shards[shard]})
    assert len(made(model, job.root)) == STUDIES
    assert contents(job.root) == contents(cache)


def test_finished_shards_are_kept_and_the_others_made(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    JobFolder(folder, CACHE, cache_key(model, Noise()).to_json()).write_index()
    for name in ("part-00000.npy", "part-00000.json", "part-00001.npy"):  # killed before the second shard's record
        (folder / name).write_bytes((cache / name).read_bytes())
    partial_path(folder / "part-00001.npy").write_bytes(b"half")
    before = (folder / "part-00000.npy").stat().st_mtime_ns
    told: list[tuple[int, int]] = []
    made(model, folder, on_progress=lambda done, total: told.append((done, total)))
    assert (folder / "part-00000.npy").stat().st_mtime_ns == before
    assert contents(folder) == contents(cache)
    assert told == [(40, 40)]


def test_two_processes_do_not_make_one_cache_but_both_can_read_it(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, cache):
        with JobFolder(folder, CACHE, cache_key(model, Noise()).to_json()).opened():
            if folder == cache:
                assert len(made(model, folder)) == STUDIES  # nothing to write, nobody to wait for
                continue
            with pytest.raises(DataError, match="is in use by another process: process .*Fix: wait for it"):
                made(model, folder)
    assert not (cache / ".lock").exists()


def test_a_whole_cache_loads_nothing(model: MedCoDi, cache: Path) -> None:
    assert model.files is not None
    lazy = MedCoDi.from_pretrained(model.files.folder, lazy=True)
    assert cache_key(lazy, Noise()) == cache_key(model, Noise())
    made(lazy, cache, verify=True)
    assert lazy.pending == set(lazy.components())


def test_overwriting_replaces_a_cache_of_other_data(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path / "train")
    assert len(made(model, folder, Noise(3, seed=5), overwrite=True)) == 3
    assert not (folder / "part-00001.npy").exists()


def test_a_cut_shard_is_named_and_encoded_again(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path / "train")
    part = folder / "part-00001.npy"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DataError, match="part-00001.npy"):
        EncodedStudies(folder)
    with pytest.raises(DataError, match="part-00001.npy is missing, cut or damaged"):
        made(model, folder)
    made(model, folder, overwrite=True)
    assert contents(folder) == contents(cache)


def test_damaged_null_prompts_are_found_and_made_again(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path / "train")
    nulls = bytearray((folder / NULLS).read_bytes())
    nulls[-10] ^= 1
    (folder / NULLS).write_bytes(bytes(nulls))
    for options in ({}, {"verify": True}):
        with pytest.raises(DataError, match="nulls.npy is[\\s\\S]*damaged"):
            made(model, folder, **options)
    made(model, folder, overwrite=True)
    assert contents(folder) == contents(cache)


def test_a_full_disk_leaves_nothing_half_written(model: MedCoDi, tmp_path: Path) -> None:
    with (
        files_of_at_most(10_000),
        pytest.raises(DataError, match="part-00000.npy cannot be written[\\s\\S]*GiB are free"),
    ):
        made(model, tmp_path / "caches" / "train")
    assert not (tmp_path / "caches" / "train").exists()


def test_a_folder_that_cannot_be_written_is_refused(model: MedCoDi, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "train", Path("/proc/caches/train")):
        with pytest.raises(DataError, match="cannot be (written|read)"):
            made(model, place)


def test_something_else_in_the_folder_is_left_alone(model: MedCoDi, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty, and does not hold a cache of encoded studies"):
        made(model, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_an_encoding_beyond_half_precision_names_the_study(model: MedCoDi, tmp_path: Path) -> None:
    assert model.files is not None
    broken = MedCoDi.from_pretrained(model.files.folder)
    broken.autoencoders["image"].set_scale(1e9)
    with pytest.raises(DataError, match="study 'study 0': its frontal.means is not a finite number in float16"):
        made(broken, tmp_path / "train")


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["data", "cache", *words])
    return int(stop.value.code or 0)


def test_the_command_makes_checks_and_refuses(
    model: MedCoDi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model.files is not None
    words = ["--model", str(model.files.folder), "--out", str(tmp_path), "--batch-size", "2"]
    source = ["source=phantom", "num_studies=2"]
    assert command(*words, "--split", "train", "--split", "val", *source) == 0
    assert "2 studies" in capsys.readouterr().out and {"train", "val"} == {file.name for file in tmp_path.iterdir()}
    assert command(*words, *source) == 0
    assert command(*words, "source=phantom", "num_studies=3") == 2
    assert "studies was 2, is 3" in capsys.readouterr().err
    assert command(*words, "--precision", "fp8", *source) == 2
