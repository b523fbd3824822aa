"""The latent cache: what is in it, whose it is, and what becomes of it when something goes wrong."""

from __future__ import annotations

import json
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.app.cli import main
from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import collate
from medcodi.data.sources.phantom import phantom_report
from medcodi.distributed import Ranks
from medcodi.errors import DataError
from medcodi.model import MedCoDi, tiny_model
from medcodi.randomness import StepRandomness, numpy_generator
from medcodi.stages import build_stage
from medcodi.stages.encoded import encode_batch
from medcodi.study import Study
from medcodi.training.caching import CacheKey, EncodedStudies, cache_key, files, make_cache
from medcodi.training.caching.agreement import Agreement
from medcodi.training.caching.encoder import Encoder

STUDIES, SIZE = 40, 32  # two parts: 32 and 8
HALF_STEP = 2.0**-11  # relative rounding of float16, to the nearest


class Noise:
    """Studies of random pixels and phantom reports; every third lacks its lateral film, every fifth its report."""

    name, image_size = "noise", SIZE

    def __init__(self, num_studies: int = STUDIES, seed: int = 0) -> None:
        self.num_studies, self.seed, self.fingerprint = num_studies, seed, f"noise {seed} {num_studies}"
        self.scale = 1.0

    def __len__(self) -> int:
        return self.num_studies

    def __getitem__(self, index: int) -> Study:
        rng = numpy_generator("noise", self.seed, index)
        contents: dict = {"frontal": rng.random((SIZE, SIZE), dtype=np.float32) * self.scale}
        if index % 3:
            contents["lateral"] = rng.random((SIZE, SIZE), dtype=np.float32)
        if index % 5:
            contents["report"] = phantom_report(0, index)
        return Study(study_id=f"study {index}", patient_id=f"patient {index // 2}", contents=contents)

    def modality_counts(self) -> dict[str, int]:
        counts = {"frontal": self.num_studies}
        counts["lateral"] = sum(bool(i % 3) for i in range(self.num_studies))
        return {**counts, "report": sum(bool(i % 5) for i in range(self.num_studies))}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MedCoDi:
    made = tiny_model(seed=0)
    made.trained_stages = ("autoencode", "align", "diffuse")
    return MedCoDi.from_pretrained(made.save_pretrained(tmp_path_factory.mktemp("model") / "tiny"))


def made(model: MedCoDi, folder: Path, dataset: StudyDataset | None = None, **options) -> EncodedStudies:
    dataset = dataset or Noise()
    return make_cache(model, dataset, folder, cache_key(model, dataset), batch_size=12, **options)


@pytest.fixture(scope="module")
def cache(model: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches") / "train"
    made(model, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def copied(cache: Path, folder: Path) -> Path:
    folder.mkdir()
    for name, data in contents(cache).items():
        (folder / name).write_bytes(data)
    return folder


# ---- what is in it ---------------------------------------------------------------------------------------------------
def test_a_batch_is_what_the_encoders_give_up_to_the_rounding_of_half_precision(model: MedCoDi, cache: Path) -> None:
    dataset, samples = Noise(), (33, 0, 5, 39)
    read = EncodedStudies(cache).read_batch(samples)
    with torch.no_grad():
        fresh = encode_batch(model, collate([dataset[sample] for sample in samples], samples, SIZE))
    assert read.study_ids == fresh.study_ids and read.patient_ids == fresh.patient_ids and read.samples == samples
    for name in model.config.modalities:
        assert read.present[name].equal(fresh.present[name])
        pairs = [(read.means[name], fresh.means[name]), (read.stds[name], fresh.stds[name])]
        for mine, theirs in ((read.prompts[name], fresh.prompts[name]), (read.nulls[name], fresh.nulls[name])):
            assert (
                mine.mask.equal(theirs.mask[:, : mine.mask.shape[1]]) and not theirs.mask[:, mine.mask.shape[1] :].any()
            )
            pairs += [(mine.pooled, theirs.pooled), (mine.tokens, theirs.tokens[:, : mine.tokens.shape[1]])]
        for mine, theirs in pairs:
            assert mine.dtype == torch.float32
            # beside the rounding: another batch composition rounds float32 sums in another order
            torch.testing.assert_close(mine, theirs, rtol=HALF_STEP, atol=1e-5)


@pytest.mark.parametrize("stage", ["diffuse", "join"])
def test_losses_are_those_of_fresh_encodings(model: MedCoDi, cache: Path, stage: str) -> None:
    """Inputs are off by 2**-11 at most, and a mean square over them by about twice that; 2e-3 is twice that again."""
    dataset, samples = Noise(), (1, 2, 4, 34)
    built, read = build_stage(stage, model).eval(), EncodedStudies(cache)
    fresh = collate([dataset[sample] for sample in samples], samples, SIZE)
    with torch.no_grad():
        for step in range(3):
            draw = StepRandomness(seed=0, step=step, samples=samples)
            assert float(built(read.read_batch(samples), draw).loss) == pytest.approx(
                float(built(fresh, draw).loss), rel=2e-3
            )


def test_nothing_is_loaded_to_train_on_encoded_studies(model: MedCoDi, cache: Path) -> None:
    assert model.files is not None
    lazy = MedCoDi.from_pretrained(model.files.folder, lazy=True)
    stage = build_stage("diffuse", lazy)
    stage(EncodedStudies(cache).read_batch((1, 2)), StepRandomness(seed=0, step=0, samples=(1, 2)))
    assert lazy.pending == {name for name in lazy.components() if not name.startswith("denoiser")}
    held = {name for name, p in lazy.named_parameters() if not p.is_meta}
    assert {name.split(".")[0] for name in held} == {"denoisers"}


def test_components_set_aside_are_out_of_the_tree_and_still_there(model: MedCoDi) -> None:
    assert model.files is not None
    lazy = MedCoDi.from_pretrained(model.files.folder, lazy=True)
    lazy.load_components([name for name in lazy.components() if name.startswith("denoiser")])
    lazy.set_aside(lazy.pending)
    assert {name.split(".")[0] for name in lazy.state_dict()} == {"denoisers"}
    lazy.to(torch.float64).to(torch.float32)  # meta tensors in the tree could not be moved
    assert lazy.latent_shape("frontal") == model.latent_shape("frontal")
    with torch.no_grad():
        torch.testing.assert_close(lazy.null_prompts("report", 2).pooled, model.null_prompts("report", 2).pooled)
    lazy.unload_components(["prompt_encoders"])
    assert "prompt_encoders" in lazy.pending and lazy.fingerprint() == model.fingerprint()


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


def test_workers_are_not_sent_the_files(cache: Path) -> None:
    read = EncodedStudies(cache)
    read.read_batch((0, 39))
    sent = pickle.dumps(read)
    assert len(sent) < (cache / "part-00000.npy").stat().st_size / 4
    assert pickle.loads(sent).read_batch((39,)).means["frontal"].equal(read.read_batch((39,)).means["frontal"])


# ---- how it is made --------------------------------------------------------------------------------------------------
def test_two_ranks_write_the_bytes_of_one(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    dataset, parts = Noise(), files.plan_parts(STUDIES)
    key = cache_key(model, dataset)
    folder = tmp_path / "train"
    folder.mkdir()
    files.begin(folder, key)
    for rank in (1, 0):
        Encoder(model, dataset, folder, key, 12, 0).encode(parts[rank::2])
    assert len(made(model, folder)) == STUDIES
    assert contents(folder) == contents(cache)


def test_finished_parts_are_kept_and_the_others_made(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    files.begin(folder, cache_key(model, Noise()))
    for name in ("part-00000.npy", "part-00000.json", "part-00001.npy"):  # killed before the second part's note
        (folder / name).write_bytes((cache / name).read_bytes())
    (folder / ".part-00001.npy.1.partial").write_bytes(b"half")
    before = (folder / "part-00000.npy").stat().st_mtime_ns
    told: list[tuple[int, int]] = []
    made(model, folder, on_progress=lambda done, total: told.append((done, total)))
    assert (folder / "part-00000.npy").stat().st_mtime_ns == before
    assert contents(folder) == contents(cache)
    assert told == [(40, 40)]


def test_two_processes_do_not_make_one_cache_but_both_can_read_it(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, cache):
        with Agreement(Ranks()).holding(folder):
            if folder == cache:
                assert len(made(model, folder)) == STUDIES  # nothing to write, nobody to wait for
                continue
            with pytest.raises(DataError, match="is being made by another process"):
                made(model, folder)
    assert not (cache / files.LOCK).exists()


def test_an_unfinished_cache_is_not_read(model: MedCoDi, tmp_path: Path) -> None:
    files.begin(tmp_path, cache_key(model, Noise()))
    with pytest.raises(DataError, match="no finished cache"):
        EncodedStudies(tmp_path)


def test_a_whole_cache_loads_nothing(model: MedCoDi, cache: Path) -> None:
    assert model.files is not None
    lazy = MedCoDi.from_pretrained(model.files.folder, lazy=True)
    assert cache_key(lazy, Noise()) == cache_key(model, Noise())
    made(lazy, cache, verify=True)
    assert lazy.pending == set(lazy.components())


# ---- whose it is -----------------------------------------------------------------------------------------------------
def test_a_cache_of_other_weights_is_refused_with_both_hashes(model: MedCoDi, cache: Path) -> None:
    other = tiny_model(seed=1)
    with pytest.raises(DataError) as refusal:
        made(other, cache)
    said = str(refusal.value)
    assert "cache made from other weights" in said and "--overwrite" in said
    assert all(cache_key(one, Noise()).weights[:16] in said for one in (model, other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "f" * 64}, "cache made from other data, 40 studies of 'noise', split 'train', noise 0 40"),
        ({"split": "val"}, "other data[\\s\\S]*split 'val'"),
        ({"precision": "bf16"}, "made with precision 'fp32'[\\s\\S]*precision 'bf16'"),
        ({"context": "pooled"}, "made with context 'tokens'"),
    ],
)
def test_another_key_is_refused(model: MedCoDi, cache: Path, change: dict, message: str) -> None:
    wanted = replace(cache_key(model, Noise()), **change)
    before = contents(cache)
    with pytest.raises(DataError, match=message):
        make_cache(model, Noise(), cache, wanted)
    assert contents(cache) == before


def test_overwriting_replaces_a_cache_of_other_data(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path / "train")
    assert len(made(model, folder, Noise(3, seed=5), overwrite=True)) == 3
    assert not (folder / "part-00001.npy").exists()


def test_keys_survive_their_file(model: MedCoDi) -> None:
    key = cache_key(model, Noise())
    assert CacheKey.from_json(json.loads(json.dumps(key.to_json()))) == key


# ---- what goes wrong -------------------------------------------------------------------------------------------------
def test_a_cut_part_is_named_and_mended(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path / "train")
    part = folder / "part-00001.npy"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DataError, match="part-00001.npy"):
        EncodedStudies(folder)
    with pytest.raises(DataError, match="part-00001.npy is missing, cut or damaged"):
        made(model, folder)
    made(model, folder, overwrite=True)
    assert contents(folder) == contents(cache)


def test_a_damaged_row_is_named_when_it_is_read_and_found_by_checking(
    model: MedCoDi, cache: Path, tmp_path: Path
) -> None:
    folder = copied(cache, tmp_path / "train")
    part = folder / "part-00001.npy"
    data = bytearray(part.read_bytes())
    data[-20] ^= 1  # in the last study
    part.write_bytes(bytes(data))
    read = EncodedStudies(folder)
    read.read_batch((0, 32))
    with pytest.raises(DataError, match="part-00001.npy, row 7: the encodings of study 'study 39' are damaged"):
        read.read_batch((0, 39))
    with pytest.raises(DataError, match="damaged"):
        made(model, folder, verify=True)
    made(model, folder, overwrite=True)
    assert contents(folder) == contents(cache)


def test_damaged_null_prompts_are_found_and_made_again(model: MedCoDi, cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path / "train")
    nulls = bytearray((folder / files.NULLS).read_bytes())
    nulls[-10] ^= 1
    (folder / files.NULLS).write_bytes(bytes(nulls))
    for options in ({}, {"verify": True}):
        with pytest.raises(DataError, match="nulls.npy is[\\s\\S]*damaged"):
            made(model, folder, **options)
    made(model, folder, overwrite=True)
    assert contents(folder) == contents(cache)


def test_a_dataset_that_counts_otherwise_is_refused(model: MedCoDi, cache: Path) -> None:
    class Fewer(Noise):
        def modality_counts(self) -> dict[str, int]:
            return {**super().modality_counts(), "report": 1}

    with pytest.raises(DataError, match="'report': 32[\\s\\S]*'report': 1"):
        made(model, cache, Fewer())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
    with pytest.raises(DataError, match="is not a cache of encoded studies"):
        made(model, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_an_encoding_beyond_half_precision_names_the_study(model: MedCoDi, tmp_path: Path) -> None:
    assert model.files is not None
    broken = MedCoDi.from_pretrained(model.files.folder)
    broken.autoencoders["image"].set_scale(1e9)
    with pytest.raises(DataError, match="study 'study 0': its frontal.means is not a finite number in float16"):
        made(broken, tmp_path / "train")


# ---- the command -----------------------------------------------------------------------------------------------------
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
    assert "cache made from other data" in capsys.readouterr().err
    assert command(*words, "--precision", "fp8", *source) == 2
