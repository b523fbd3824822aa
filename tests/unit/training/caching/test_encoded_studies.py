"""What a cache holds, and how it is read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from medcodi.data.loading import collate
from medcodi.errors import DataError
from medcodi.model import MedCoDi
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.stages.encoded import encode_batch
from medcodi.storage.job_folder import JobFolder
from medcodi.training.caching import EncodedStudies, cache_key
from medcodi.training.caching.format import CACHE
from tests.unit.training.caching.studies import SIZE, Noise, contents, copied, made

HALF_STEP = 2.0**-11  # relative rounding of float16, to the nearest


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


def test_workers_are_not_sent_the_files(cache: Path) -> None:
    read = EncodedStudies(cache)
    read.read_batch((0, 39))
    sent = pickle.dumps(read)
    assert len(sent) < (cache / "part-00000.npy").stat().st_size / 4
    assert pickle.loads(sent).read_batch((39,)).means["frontal"].equal(read.read_batch((39,)).means["frontal"])


def test_an_unfinished_cache_is_not_read(model: MedCoDi, tmp_path: Path) -> None:
    JobFolder(tmp_path, CACHE, cache_key(model, Noise()).to_json()).write_index()
    with pytest.raises(DataError, match="no finished cache"):
        EncodedStudies(tmp_path)


def test_a_dataset_that_counts_otherwise_is_refused(model: MedCoDi, cache: Path) -> None:
    class Fewer(Noise):
        def modality_counts(self) -> dict[str, int]:
            return {**super().modality_counts(), "report": 1}

    with pytest.raises(DataError, match="'report': 32[\\s\\S]*'report': 1"):
        made(model, cache, Fewer())


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


def test_nothing_is_loaded_to_train_on_encoded_studies(model: MedCoDi, cache: Path) -> None:
    assert model.files is not None
    lazy = MedCoDi.from_pretrained(model.files.folder, lazy=True)
    stage = build_stage("diffuse", lazy)
    stage(EncodedStudies(cache).read_batch((1, 2)), StepRandomness(seed=0, step=0, samples=(1, 2)))
    assert lazy.pending == {name for name in lazy.components() if not name.startswith("denoiser")}
    held = {name for name, p in lazy.named_parameters() if not p.is_meta}
    assert {name.split(".")[0] for name in held} == {"denoisers"}


def test_a_shard_outside_of_the_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path / "copy")
    index = json.loads((folder / CACHE.index_file).read_text())
    index["parts"][0]["file"] = f"../{folder.name}/part-00000.npy"
    (folder / CACHE.index_file).write_text(json.dumps(index))
    with pytest.raises(DataError, match="plain file name inside its folder"):
        EncodedStudies(folder)
