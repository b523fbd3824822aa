"""Whole evaluations: the tiny model and other systems' files on phantom studies; resumed, in ranks, verified, refused."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medcodi.config import from_dict, to_dict
from medcodi.config import load as load_config
from medcodi.data.images import save_png8
from medcodi.errors import CheckpointError, ConfigError, DataError, MedCoDiError
from medcodi.evaluation import (
    ClassifierTrainConfig,
    EvaluateConfig,
    FindingClassifier,
    evaluate,
    rescore_bundle,
    train_classifier,
    verify_bundle,
)
from medcodi.evaluation.bundle import MARK, Bundle
from medcodi.model import MedCoDi, tiny_model

pytest.importorskip("pycocoevalcap")
pytest.importorskip("jinja2")
pytest.importorskip("torchmetrics")
SIZE, NUM = 32, 12
DIRECTIONS = ["report->frontal", "lateral+report->frontal", "lateral->frontal", "frontal->lateral+report", "->report"]


def phantom(split: str, num: int) -> dict:
    return {"source": "phantom", "split": split, "num_studies": num, "image_size": SIZE}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny generator and, beside it, a classifier that has seen twelve studies."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    network = {"image_size": SIZE, "channels": [4, 8], "blocks": [0, 1]}
    values = {
        **{name: phantom(split, 12) for name, split in (("train", "train"), ("validation", "val"), ("test", "test"))},
        "network": network,
        "num_steps": 2,
        "batch_size": 8,
        "out": str(folder),
    }
    train_classifier(from_dict(ClassifierTrainConfig, values), quiet=True)
    card = folder / "finding_classifier.json"  # two steps teach little: which findings it may judge must not be luck
    told = json.loads(card.read_text())
    for view in told["ceiling"].values():
        for target in ("No Finding", "Lung Opacity", "Pleural Effusion"):
            view[target].update(auroc=0.9, positives=10)
    card.write_text(json.dumps(told))
    return folder


def values(model: Path | None, out: Path, **changes: Any) -> dict[str, Any]:
    told = {
        "data": phantom("test", NUM),
        "directions": DIRECTIONS,
        "out": str(out),
        "num_inference_steps": 2,
        "batch_size": 5,
        "bootstrap_samples": 100,
        "permutations": 100,
        "min_positives": 2,
        "kernel_subset": 6,
        "kernel_subsets": 3,
        "diversity_pairs": 4,
        "pictures": 1,
        "meteor": False,
        "device": "cpu",
    }
    return {**told, **({"model": str(model)} if model else {}), **changes}


def options(model: Path | None, out: Path, **changes: Any) -> EvaluateConfig:
    return from_dict(EvaluateConfig, values(model, out, **changes))


@pytest.fixture(scope="module")
def bundle(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole evaluation."""
    out = tmp_path_factory.mktemp("bundle") / "out"
    evaluate(options(model_folder, out), quiet=True)
    return out


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_a_bundle_holds_everything(bundle: Path) -> None:
    results = json.loads((bundle / "results.json").read_text())
    assert results["schema_version"] == 4 and results["complete"] and list(results["systems"]) == ["tiny"]
    directions = results["systems"]["tiny"]["directions"]
    assert list(directions) == DIRECTIONS and directions["->report"]["primary"]["beats_shuffled"] is None
    joint = directions["frontal->lateral+report"]
    assert set(joint["targets"]) == {"lateral", "report"} and set(joint["coherence"]) == {"lateral+report"}
    assert results["systems"]["tiny"]["orders"] == {"frontal->lateral+report": "joint"}
    metrics = joint["targets"]["report"]["metrics"]
    assert {"bleu_1", "rouge_l", "cider", "finding_macro_f1"} <= set(metrics)
    assert metrics["finding_macro_f1"]["ceiling"] == 1.0  # the labeler reads every phantom report right
    images = directions["report->frontal"]["targets"]["frontal"]["metrics"]
    assert {"frechet/demo", "kernel/demo", "coverage/demo", "ssim", "psnr", "ms_ssim"} <= set(images)
    assert "median_rank" in " ".join(joint["coherence"]["lateral+report"]["metrics"])
    against = {(test["direction"], test["against"]) for test in results["comparisons"]["multi_prompt"]}
    assert against == {
        ("lateral+report->frontal", "report->frontal"),
        ("lateral+report->frontal", "lateral->frontal"),
    }
    legible = {name: told["primary"]["prompt_reader"] for name, told in directions.items()}
    assert 0 <= legible["frontal->lateral+report"]["value"] <= 1 and legible["->report"] is None
    assert {"out", "device", "resume"}.isdisjoint(results["config"])
    assert results["readers"]["extractors"]["demo"]["weights_sha256"] == results["readers"]["images"]["weights_sha256"]

    scored = json.loads((bundle / "scored.json").read_text())
    listed = scored["systems"]["tiny"]["report->frontal"]
    assert len(scored["studies"]) == NUM == len(listed["generated"]["frontal"]) and listed["scored"] == list(range(NUM))
    index = json.loads((bundle / "bundle.json").read_text())["files"]
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert set(index) == {name for name in there if not name.startswith("features/")} - {"bundle.json", MARK}
    page = (bundle / "page.html").read_text()
    assert page.count("data:image/png") >= 8 and "https://" not in page and "report → frontal" in page
    assert "Two prompts beside one" in page and "<svg" in page


def test_one_run_makes_a_table_of_orders(model_folder: Path, tmp_path: Path) -> None:
    direction, orders = "frontal->lateral+report", ["joint", "staggered", "chained"]
    changes = {"orders": orders, "directions": [direction], "metrics": ["findings", "coherence"], "pictures": 0}
    results = evaluate(options(model_folder, tmp_path / "out", **changes), quiet=True)
    of_order = {system["orders"][direction]: system for system in results["systems"].values()}
    assert list(of_order) == orders and list(results["systems"]) == [f"tiny-{order}" for order in orders]
    assert {order: system["settings"]["order"] for order, system in of_order.items()} == {
        order: order for order in orders
    }
    pairs = {tuple(test["systems"]) for test in results["comparisons"]["systems"] + results["comparisons"]["left_out"]}
    assert ("tiny-joint", "tiny-chained") in pairs
    assert "chained" in (tmp_path / "out/page.html").read_text()
    assert verify_bundle(tmp_path / "out").holds


def test_it_resumes_to_the_same_figures(bundle: Path, copied: Path, model_folder: Path) -> None:
    kept = copied / "generated/tiny/report_to_frontal/00000.npz"
    before = kept.stat().st_mtime_ns
    (copied / "generated/tiny/nothing_to_report/00001.npz").write_bytes(b"cut short")
    (copied / "generated/earlier").mkdir()
    (copied / "generated/earlier/left.npz").write_bytes(b"of another run")
    evaluate(options(model_folder, copied), quiet=True)
    for name in ("results.json", "scored.json", "page.html"):
        assert (copied / name).read_bytes() == (bundle / name).read_bytes(), name
    assert kept.stat().st_mtime_ns == before  # not generated again
    assert not list(copied.rglob("*.partial"))
    assert (copied / "generated/earlier/left.npz").read_bytes() == b"of another run"  # kept, and not taken for ours
    assert "generated/earlier/left.npz" not in json.loads((copied / "bundle.json").read_text())["files"]


def test_what_an_earlier_run_generated_is_kept_unlisted(copied: Path, model_folder: Path) -> None:
    other = sorted((copied / "generated/tiny/lateral_to_frontal").iterdir())
    told = {"directions": ["report->frontal"], "metrics": ["findings"], "pictures": 0}
    evaluate(options(model_folder, copied, **told), quiet=True)
    assert len(other) == 3 and all(path.is_file() for path in other)
    index = json.loads((copied / "bundle.json").read_text())["files"]
    assert {name.split("/")[2] for name in index if name.startswith("generated/")} == {"report_to_frontal"}
    found = verify_bundle(copied, device="cpu", quiet=True)
    assert found.holds and any("files in generated/ are of other runs" in note for note in found.notes)


def test_nobodys_files_are_overwritten_or_judged_in_their_place(systems: tuple[Path, Path], model_folder: Path) -> None:
    theirs = systems[0]
    before = sorted(theirs.rglob("*"))
    for out, message in (
        (theirs.parent, "is stored in the results' own folder"),
        (theirs / "out", "would be stored among"),
    ):
        told = options(None, out, systems={"theirs": str(theirs)}, classifier=str(model_folder), directions=None)
        with pytest.raises(ConfigError, match=message):
            evaluate(told, quiet=True)
    with pytest.raises(ConfigError, match="holds no bundle"):
        evaluate(options(model_folder, theirs.parent), quiet=True)
    assert sorted(theirs.rglob("*")) == before


def test_joint_attention_can_be_left_out(model_folder: Path, tmp_path: Path) -> None:
    model = MedCoDi.from_pretrained(model_folder)
    with torch.no_grad():  # a fresh model's targets hear nothing yet
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    told: dict[str, Any] = {"directions": ["report->frontal+lateral"], "metrics": ["findings"], "pictures": 0}
    model.save_pretrained(tmp_path / "model")
    contents = []
    for joint in (True, False):
        out = tmp_path / f"joint-{joint}"
        told |= {"classifier": str(model_folder), "joint": joint}
        evaluate(options(tmp_path / "model", out, **told), quiet=True)
        system = next(iter(json.loads((out / "results.json").read_text())["systems"].values()))
        assert system["settings"]["joint"] is joint
        contents.append(json.loads((out / "scored.json").read_text()))
    assert contents[0] != contents[1]


def test_how_the_model_runs_stands_in_the_results_and_in_the_key_of_what_is_kept(
    model_folder: Path, tmp_path: Path
) -> None:
    told: dict[str, Any] = {"directions": ["report->frontal"], "metrics": ["findings"], "pictures": 0}
    contents = []
    for execution in ({}, {"precision": "bfloat16"}):
        evaluate(
            options(model_folder, tmp_path / "out", **told, execution=execution), quiet=True
        )  # one folder: resumed
        system = next(iter(json.loads((tmp_path / "out/results.json").read_text())["systems"].values()))
        assert system["execution"] == execution
        contents.append(json.loads((tmp_path / "out/scored.json").read_text()))
    assert contents[0] != contents[1]


def test_chexgenbench_runs_dry_with_random_weights_and_says_so(model_folder: Path, tmp_path: Path) -> None:
    recipe = to_dict(load_config(EvaluateConfig, "chexgenbench"))
    quick = {name: value for name, value in values(model_folder, tmp_path / "out").items() if name != "directions"}
    quick |= {"data": phantom("test", 24), "min_positives": 3, "neighbours": 2, "batch_size": 12}
    dry = {"image_reader": "demo", "extractor_weights": {"rad-dino-299": "random"}}
    evaluate(from_dict(EvaluateConfig, {**recipe, **quick, **dry}), quiet=True)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["readers"]["extractors"]["rad-dino-299"]["settings"]["random"] is True
    target = results["systems"]["tiny"]["directions"]["report->frontal"]["targets"]["frontal"]
    assert {"kernel/rad-dino-299", "coverage/rad-dino-299", "alignment"} <= set(target["metrics"])
    alignment = target["metrics"]["alignment"]
    assert all(-1 <= alignment[name] <= 1 for name in ("value", "ceiling", "floor"))
    own = target["by_finding"]["Lung Opacity"]
    assert own["studies"] >= 3 and "coverage/rad-dino-299" in own["metrics"]
    page = (tmp_path / "out/page.html").read_text()
    assert "this is a dry run" in page and "Distances by finding" in page and "squeezed to 299" in page
    assert verify_bundle(tmp_path / "out", device="cpu", quiet=True).holds


def test_two_ranks_write_the_same_results(bundle: Path, model_folder: Path, tmp_path: Path) -> None:
    from tests.integration.forked import FORKS, free_port

    told = values(model_folder, tmp_path / "ranks", directions=DIRECTIONS[:4])
    alone = values(model_folder, tmp_path / "alone", directions=DIRECTIONS[:4])
    shutil.copytree(bundle / "generated", tmp_path / "alone/generated")  # made by one rank
    (tmp_path / "alone" / MARK).touch()
    evaluate(from_dict(EvaluateConfig, alone), quiet=True)
    port = str(free_port())
    workers = [FORKS.Process(target=_rank, args=(rank, port, told), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    for name in ("results.json", "scored.json", "page.html"):
        assert (tmp_path / "ranks" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    assert json.loads((tmp_path / "ranks/run.json").read_text())["ranks"] == 2


def test_a_refusal_on_one_rank_is_a_refusal_on_all(
    systems: tuple[Path, Path], model_folder: Path, tmp_path: Path
) -> None:
    """The unreadable file is in the second shard, which the second rank reads; the first must not wait for it."""
    from tests.integration.forked import FORKS, free_port

    theirs = Path(shutil.copytree(systems[0], tmp_path / "theirs"))
    (sorted((theirs / "report_to_frontal").iterdir())[6] / "frontal.png").write_bytes(b"cut short")
    told = values(None, tmp_path / "out", systems={"theirs": str(theirs)}, classifier=str(model_folder))
    told |= {"directions": ["report->frontal"], "metrics": ["findings"]}
    port = str(free_port())
    workers = [FORKS.Process(target=_rank, args=(rank, port, told), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    exits = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert exits == [1, 1] and not (tmp_path / "out/results.json").exists()


def _rank(rank: int, port: str, told: dict[str, Any]) -> None:
    import os

    import torch

    torch.set_num_threads(1)
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(variables, LOCAL_RANK=str(rank))
    evaluate(from_dict(EvaluateConfig, told), quiet=True)


# ---- verify ----------------------------------------------------------------------------------------------------------
def test_a_bundle_is_verified_and_what_was_changed_is_named(copied: Path) -> None:
    whole = verify_bundle(copied, device="cpu", quiet=True)
    assert whole.holds, [str(one) for one in whole.differences[:5]]
    assert whole.num_figures > 500 and whole.num_contents > 60 and whole.num_files > 10

    results = json.loads((copied / "results.json").read_text())
    figure = results["systems"]["tiny"]["directions"]["->report"]["targets"]["report"]["metrics"]["bleu_1"]
    figure["value"] += 0.05
    (copied / "results.json").write_text(json.dumps(results))
    page = copied / "page.html"
    page.write_text(page.read_text().replace("demo", "demo ", 1))
    path = copied / "generated/tiny/report_to_frontal/00001.npz"
    with np.load(path) as arrays:
        held = dict(arrays)
    held["frontal"] = held["frontal"].copy()
    held["frontal"][2] = 255 - held["frontal"][2]
    np.savez_compressed(path, **held)
    told = [str(one) for one in verify_bundle(copied, device="cpu", quiet=True).differences]
    assert any("->report / targets / report / metrics / bleu_1 / value" in one for one in told)
    assert any(one.startswith("file page.html") for one in told)
    study = json.loads((copied / "scored.json").read_text())["studies"][7]["study_id"]
    assert any(one.startswith(f"generated tiny, report->frontal, frontal, study {study}") for one in told)
    assert any("report->frontal / targets / frontal / metrics / ssim / value" in one for one in told)
    assert not any("frontal->lateral+report / targets" in one for one in told)  # nothing else is blamed


def test_verify_on_the_command_line(copied: Path) -> None:
    from medcodi.app.cli import app

    (copied / "run.json").write_text("{}")
    (copied / "generated/tiny/report_to_frontal/00000.npz").unlink()
    done = CliRunner().invoke(app, ["evaluate", "--verify", str(copied)])
    assert done.exit_code == 1, done.output
    assert "file run.json" in done.output and "does not reproduce" in done.output
    (copied / "bundle.json").unlink()
    with pytest.raises(DataError, match=r"bundle\.json is unreadable"):
        verify_bundle(copied)


# ---- rescore ---------------------------------------------------------------------------------------------------------
def test_a_bundle_is_scored_again_from_its_annotations(copied: Path) -> None:
    before = {name: (copied / name).read_bytes() for name in ("results.json", "page.html", "scored.json")}
    shutil.rmtree(copied / "features")
    rescore_bundle(copied)
    assert {name: (copied / name).read_bytes() for name in before} == before

    changed = rescore_bundle(copied, {"bootstrap_samples": 200, "pictures": 0})
    metrics = changed["systems"]["tiny"]["directions"]["report->frontal"]["targets"]["frontal"]["metrics"]
    old = json.loads(before["results.json"])
    figure = old["systems"]["tiny"]["directions"]["report->frontal"]["targets"]["frontal"]["metrics"][
        "finding_macro_f1"
    ]
    assert metrics["finding_macro_f1"]["value"] == figure["value"] and metrics["finding_macro_f1"] != figure
    assert changed["scoring"]["bootstrap_samples"] == 200
    assert verify_bundle(copied, device="cpu", quiet=True).holds
    with pytest.raises(ConfigError, match="diversity_pairs cannot be changed without new annotations"):
        rescore_bundle(copied, {"diversity_pairs": 7})


def test_rescoring_on_the_command_line_refuses_changed_annotations(copied: Path) -> None:
    from medcodi.app.cli import app

    done = CliRunner().invoke(app, ["evaluate", "--rescore", str(copied), "min_positives=3", "pictures=0"])
    assert done.exit_code == 0, done.output
    assert json.loads((copied / "results.json").read_text())["config"]["min_positives"] == 3
    (copied / "annotations/real/frontal.npz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"frontal\.npz was changed or is missing"):
        rescore_bundle(copied)


# ---- other systems ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def systems(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny model's own output as a folder, and that of a system which gives the truth, as a table of nine studies."""
    from medcodi.data.loading import DataConfig

    folder, dataset = tmp_path_factory.mktemp("systems"), from_dict(DataConfig, phantom("test", NUM)).build()
    rows: list[dict[str, str]] = []
    for number, block in enumerate(sorted((bundle / "generated/tiny/report_to_frontal").glob("*.npz"))):
        with np.load(block) as arrays:
            for place, pixels in enumerate(arrays["frontal"]):
                study = dataset[5 * number + place]
                here = folder / "theirs/report_to_frontal" / study.study_id
                here.mkdir(parents=True)
                save_png8(pixels.astype(np.float32) / 255, here / "frontal.png")
    for index in range(9):
        study = dataset[index]
        save_png8(study.images["frontal"], folder / f"{index}.png")
        rows.append({"study_id": study.study_id, "prompts": "report", "frontal": f"{index}.png", "report": ""})
        rows.append({"study_id": study.study_id, "prompts": "frontal", "frontal": "", "report": study.report or ""})
    with (folder / "truth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "theirs", folder / "truth.csv"


def test_files_score_as_the_model_that_made_them(
    bundle: Path, systems: tuple[Path, Path], model_folder: Path, tmp_path: Path
) -> None:
    told = options(None, tmp_path, systems={"theirs": str(systems[0])}, classifier=str(model_folder), directions=None)
    found = evaluate(told, quiet=True)["systems"]["theirs"]
    before = json.loads((bundle / "results.json").read_text())["systems"]["tiny"]["directions"]["report->frontal"]
    after = found["directions"]["report->frontal"]
    assert found["kind"] == "files" and after["primary"] == before["primary"]
    assert after["targets"] == before["targets"]
    assert found["image_sizes"]["report->frontal"] == {f"{SIZE}×{SIZE}": NUM}
    scored = json.loads((tmp_path / "scored.json").read_text())["systems"]["theirs"]["report->frontal"]
    assert len(scored["files"]["frontal"]) == NUM


def test_systems_stand_in_one_table_on_their_common_studies(
    systems: tuple[Path, Path], model_folder: Path, tmp_path: Path
) -> None:
    told = {"theirs": str(systems[0]), "truth": str(systems[1])}
    results = evaluate(
        options(None, tmp_path, systems=told, classifier=str(model_folder), directions=None, min_positives=1),
        quiet=True,
    )
    for name in told:
        assert results["systems"][name]["directions"]["report->frontal"]["num_studies"] == 9
    assert results["systems"]["theirs"]["coverage"]["report->frontal"] == {"given": 12, "scored": 9, "usable": 12}
    tests = {test["metric"]: test for test in results["comparisons"]["systems"]}
    assert tests["ssim"]["systems"] == ["theirs", "truth"] and tests["ssim"]["num_studies"] == 9
    assert tests["ssim"]["difference"]["high"] < 0 and tests["ssim"]["p_value"] < 0.05
    page = (tmp_path / "page.html").read_text()
    assert "12 of 12 studies were given, and the 9 that all systems have were scored" in page
    assert "theirs against truth" in page and verify_bundle(tmp_path, device="cpu", quiet=True).holds


def test_an_unreadable_file_of_a_system(systems: tuple[Path, Path], model_folder: Path, tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(systems[0], tmp_path / "theirs"))
    victim = sorted((theirs / "report_to_frontal").iterdir())[3]
    (victim / "frontal.png").write_bytes(b"\x89PNG cut short")
    told = values(None, tmp_path / "out", systems={"theirs": str(theirs)}, classifier=str(model_folder))
    told |= {"directions": ["report->frontal"], "metrics": ["findings"]}
    with pytest.raises(DataError, match=f"study {victim.name}"):
        evaluate(from_dict(EvaluateConfig, told), quiet=True)
    assert not (tmp_path / "out/results.json").exists()
    results = evaluate(from_dict(EvaluateConfig, told | {"exclude_unreadable": True}), quiet=True)
    assert [one["study_id"] for one in results["excluded"]] == [victim.name]
    assert results["systems"]["theirs"]["directions"]["report->frontal"]["num_studies"] == NUM - 1
    assert victim.name in (tmp_path / "out/page.html").read_text()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve studies as a hospital would have them: images of 48 pixels and a table, which say nothing of phantoms; and what was generated."""
    from medcodi.data.loading import DataConfig
    from medcodi.data.preparation.prepare import PrepareConfig, prepare

    folder = tmp_path_factory.mktemp("films")
    dataset = from_dict(DataConfig, {**phantom("test", NUM), "image_size": 48}).build()
    rows = []
    for study in (dataset[index] for index in range(NUM)):
        here = folder / "theirs/report_to_frontal+lateral" / study.study_id
        here.mkdir(parents=True)
        for name, pixels in study.images.items():
            save_png8(pixels, here / f"{name}.png")
        files = {name: str(here / f"{name}.png") for name in study.images}
        rows.append({"study_id": study.study_id, "patient_id": study.patient_id, "split": "test", **files})
        rows[-1]["report"] = study.report or ""
    with (folder / "films.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    told = {"source": "csv", "path": str(folder / "films.csv"), "out": str(folder / "prepared"), "image_size": 48}
    prepare(from_dict(PrepareConfig, told))
    return folder


def test_real_films_are_judged_at_their_size_and_readers_of_phantoms_are_named(films: Path, tmp_path: Path) -> None:
    """By the command of the README, with nothing said of readers."""
    from medcodi.app.cli import app

    told = ["metrics=[findings,prdc,coherence]", "min_positives=1", "bootstrap_samples=100", "pictures=0", "device=cpu"]
    asked = [
        "--systems",
        f"theirs={films / 'theirs'}",
        "--data",
        str(films / "prepared"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, ["evaluate", *asked, *told])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["data"]["image_size"] == 48 and not results["data"]["phantoms"]
    assert results["data"]["truth"] == "reference report" and results["scoring"]["unmentioned"] == "absent"
    pair = results["systems"]["theirs"]["directions"]["report->frontal+lateral"]["coherence"]["frontal+lateral"]
    assert "geometry_correlation" not in pair["metrics"] and "finding_kappa" in pair["metrics"]
    page, said = (tmp_path / "out/page.html").read_text(), " ".join(done.output.split())
    for fix in ("image_reader=xrv", "extractors=[xrv]", "model=..."):
        assert fix in page and fix in said
    assert verify_bundle(tmp_path / "out", device="cpu", quiet=True).holds


def test_the_script_says_what_the_command_says(
    copied: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import runpy

    recipe = copied.parent / "again.yaml"
    recipe.write_text(json.dumps(values(model_folder, copied, directions=["report->frontal"], metrics=["findings"])))
    main = runpy.run_path(str(Path(__file__).parents[2] / "eval/evaluate.py"))["main"]
    assert main(["--config", str(recipe)]) == 0
    told = capsys.readouterr()
    assert f"Only {NUM} studies" in " ".join(told.err.split()) and "page.html" in told.out
    assert main(["--config", str(recipe), f"out={model_folder}"]) == 2
    assert "holds no bundle" in capsys.readouterr().err


# ---- one run in a folder, and a full disk ----------------------------------------------------------------------------
def test_a_folder_in_use_is_refused_and_left_as_it_was(copied: Path, model_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    with Bundle(copied).opened(), pytest.raises(ConfigError, match="in use by another process"):
        evaluate(options(model_folder, copied), quiet=True)
    after = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    assert {path: time for path, time in after.items() if path.name != MARK} == {
        path: time for path, time in before.items() if path.name != MARK
    }


def test_a_full_disk_is_refused_by_name(model_folder: Path, tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    told: dict[str, Any] = {"directions": ["report->frontal"], "metrics": ["findings"], "pictures": 0}
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # every longer write fails, as on a full disk
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(MedCoDiError, match="cannot be written"):
            evaluate(options(model_folder, tmp_path / "out", **told), quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / "out/bundle.json").exists()
    evaluate(options(model_folder, tmp_path / "out", **told), quiet=True)  # with room, it resumes


# ---- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"directions": ["report->report"]}, MedCoDiError, "both prompt and target"),
        ({"directions": ["report->mri"]}, MedCoDiError, "mri"),
        ({"data": {**phantom("test", 12), "image_size": 64}}, ConfigError, "data.image_size=32"),
        ({"data": phantom("test", 3)}, MedCoDiError, "3 held-out studies"),
        ({"bootstrap_samples": 1}, ConfigError, "at least 100"),
        ({"sampler": "ddimm"}, MedCoDiError, "did you mean 'ddim'"),
        ({"preset": "fastt"}, MedCoDiError, "did you mean 'fast'"),
        ({"classifier": "nowhere"}, CheckpointError, "no finding classifier in nowhere"),
        ({"batchsize": 3}, ConfigError, "did you mean 'batch_size'"),
        ({"metrics": ["frechett"]}, MedCoDiError, "did you mean 'frechet'"),
        ({"extractors": ["rad-dyno"]}, MedCoDiError, "did you mean 'rad-dino'"),
        ({"systems": {"a/b": "x"}}, ConfigError, "invalid name of a system"),
        ({"systems": {"a": "nowhere"}}, DataError, "no generated contents at nowhere"),
    ],
)
def test_refusals_come_before_any_output(
    model_folder: Path, tmp_path: Path, changes: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(options(model_folder, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_train_and_test_of_the_classifier_must_differ(tmp_path: Path) -> None:
    same = {name: phantom("train", 4) for name in ("train", "validation", "test")}
    with pytest.raises(MedCoDiError, match="share their studies"):
        train_classifier(from_dict(ClassifierTrainConfig, {**same, "out": str(tmp_path)}), quiet=True)
    with pytest.raises(CheckpointError):
        FindingClassifier.load(tmp_path)
