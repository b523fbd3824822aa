"""Every job and command that writes, as command lines at tiny size; and what happens to them: kills, two at once, small disks.

Each story runs in a process forked from the server of :mod:`tests.integration.forked`, and forks every command from there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.integration import small_disk
from tests.integration.conftest import QUIET, ROOT
from tests.unit.storage.killed import ended, forked, killed_at, num_changes, sends

OUT = "OUT"  # stands for the job's own folder in its words
REFUSED = 2
# Keys that differ between two runs of the same bytes: times, and hashes of files that hold times.
_TIMES = {"timing", "page.html", "run.json"}

_EVALUATION = ("num_inference_steps=2", "batch_size=3", "bootstrap_samples=100", "permutations=100", "min_positives=1",
               "metrics=[findings,similarity]", "pictures=1", "meteor=false", "device=cpu")  # fmt: skip
_XGEM = "--num-heads 2 --norm-groups 4 --vae-norm-groups 4 --text-heads 2 --image-heads 2 --report-heads 2 --decoder-heads 2"
_FEW = ("--steps", "2", "--device", "cpu")


def command_lines(inputs: Path) -> dict[str, list[str]]:
    """Name of a job -> its command; ``inputs`` is made by :func:`make_inputs`."""
    data, model, classified = str(inputs / "data"), str(inputs / "model"), str(inputs / "classified")
    train = ("batch.global_size=4", "steps=3", "checkpoint.every=1", f"data={data}", "validation=null", *QUIET)
    stages = {
        stage: ["train", "--config", str(ROOT / f"configs/train/tiny/{stage}.yaml"), "--resume", "latest", f"out={OUT}",
                *(("model=tiny",) if stage == "autoencode" else ("model=null", f"init={model}")), *train]
        for stage in ("autoencode", "align", "diffuse", "join")
    }  # fmt: skip
    prepare = ["data", "prepare", "--source", "csv", "--out", OUT, f"path={inputs / 'sample'}", "image_size=32"]
    return {
        "prepare": prepare,
        "cache": ["data", "cache", "--model", model, "--data", data, "--split", "train", "--out", OUT, "--batch-size", "8"],
        **stages,
        "synthesize": ["synthesize", "--manifest", str(inputs / "manifest.csv"), "--out", OUT, "--model", model,
                       "--batch-size", "2", "--shard-size", "3", *_FEW],
        "evaluate": ["evaluate", "--model", classified, "--out", OUT, "data.source=phantom", "data.split=test",
                     "data.num_studies=8", "data.image_size=32", "directions=[report->frontal,frontal->report]", *_EVALUATION],
        "turing export": ["turing", "export", "--study", str(inputs / "study.yaml"), "--real", "phantom",
                          "--generated", str(inputs / "generated"), "--out", OUT],
        "fit": ["fit", str(inputs / "sample"), "--out", OUT, "--minutes", "0.01"],
        "import-xgem": ["import-xgem", str(inputs / "published.safetensors"), OUT, "--image-size", "16", *_XGEM.split()],
    }  # fmt: skip


def one_shot_lines(inputs: Path) -> dict[str, list[str]]:
    """The same for commands that have nothing to resume: what they write appears in one piece."""
    model, film = str(inputs / "model"), f"frontal={inputs / 'film.png'}"
    edit = ["edit", "--study", film, "--study", "report=Clear lungs.", "--report", "Large left pleural effusion."]
    return {
        "generate": ["generate", "--prompt", film, "--target", "lateral", "--out", OUT, "--model", model, *_FEW],
        "edit": [*edit, "--out", OUT, "--model", model, *_FEW],
        "demo": ["demo", "--out", OUT, "--model", model, *_FEW],
        "plot": ["plot", str(inputs / "run"), "--out", f"{OUT}/page.html"],
        "data sample": ["data", "sample", OUT, "--studies", "24", "--image-size", "32"],
        "config copy": ["config", "copy", "train/tiny/align", f"{OUT}/mine.yaml"],
    }


def make_inputs(inputs: Path) -> None:
    """Data, models, a manifest, a checkpoint in the published layout, an earlier run: what the commands read."""
    from safetensors.torch import save_file

    from medcodi.config import from_dict
    from medcodi.data.images import save_png8
    from medcodi.data.sample import write_sample
    from medcodi.data.sources.phantom import phantom_study
    from medcodi.evaluation import ClassifierTrainConfig, train_classifier
    from medcodi.model import tiny_model
    from tests.unit.interop.published import published_checkpoint

    # Data.
    write_sample(inputs / "sample", 24, image_size=32)
    call(command_lines(inputs)["prepare"], inputs / "data")
    save_png8(phantom_study(7, 0, 32).images["frontal"], inputs / "film.png")
    # Models.
    model = tiny_model(seed=0)
    model.trained_stages = ("autoencode", "align", "diffuse")
    model.save_pretrained(inputs / "model")
    shutil.copytree(inputs / "model", inputs / "classified")
    splits = {name: {"path": str(inputs / "data"), "split": name} for name in ("train", "val", "test")}
    network = {"image_size": 32, "channels": [4, 8], "blocks": [0, 1]}
    values = {"train": splits["train"], "validation": splits["val"], "test": splits["test"], "network": network}
    values |= {"num_steps": 2, "batch_size": 8, "out": str(inputs / "classified")}
    train_classifier(from_dict(ClassifierTrainConfig, values), quiet=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in published_checkpoint().items()}, inputs / "published.safetensors"
    )
    # Requests, a reader study and the generated arm of it.
    rows = [f"s{number},Nodule of {number} mm.,frontal" for number in range(5)]
    (inputs / "manifest.csv").write_text("\n".join(["id,report,targets", *rows]) + "\n")
    (inputs / "generated").mkdir()
    rows = ["study_id,frontal"]
    for number in range(4):
        save_png8(phantom_study(7, number, 96).images["frontal"], inputs / f"generated/{number}.png")
        rows.append(f"made-{number},{number}.png")
    (inputs / "generated/results.csv").write_text("\n".join(rows))
    (inputs / "study.yaml").write_text(
        "name: s\ntitle: t\nreaders: 2\nimage_size: 64\nblinding: {crop: none}\n"
        "tasks: [{id: t, kind: rating, modalities: [frontal], num_items: 3}]\n"
    )
    # A run whose curves are drawn.
    call(command_lines(inputs)["align"], inputs / "run")


# ---- commands in forks -----------------------------------------------------------------------------------------------
def call(words: list[str], out: Path) -> None:
    """Run a command in this process; a refusal, printed in one line, ends it with the command's exit code."""
    from medcodi.app.cli import main

    try:
        main([word.replace(OUT, str(out)) for word in words])
    except SystemExit as end:
        if end.code:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(end.code))


def said_by(words: list[str], out: Path, log: Path) -> tuple[int, str]:
    """Run a command in a fork; its exit code, and what it printed in one line."""

    def work() -> None:
        redirect(log)
        call(words, out)

    log.unlink(missing_ok=True)
    code = ended(forked(work))
    return code, " ".join(log.read_text().split())


def redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ["COLUMNS"] = "1000"


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder, without times and its own path; pages, which show times, by their presence."""

    if (folder / "custodian").is_dir():  # every bundle of a reader study has its own salt: other names, other bytes
        return dict(Counter(path.suffix for path in folder.rglob("*") if path.is_file()))
    if (
        folder / "fit.json"
    ).is_file():  # the time ends its stages: other steps, other weights, and features by their hashes
        made = ("data", "done", "model")
        return {
            str(path.relative_to(folder)): path.read_bytes() if part == "data" and path.suffix == ".arrow" else part
            for part in made
            for path in (folder / part).rglob("*")
        } | {name: (folder / "evaluation" / name).is_file() for name in ("page.html", "bundle.json")}

    def content(path: Path) -> Any:
        if path.suffix == ".html" or (path.name == "run.json" and (folder / "bundle.json").is_file()):
            return "times"
        if path.suffix in (".json", ".jsonl"):
            return [timeless(json.loads(line)) for line in parts(path)]
        return path.read_bytes().replace(str(folder).encode(), OUT.encode())

    def parts(path: Path) -> list[str]:
        text = path.read_text(encoding="utf-8").replace(str(folder), OUT)
        return text.splitlines() if path.suffix == ".jsonl" else [text]

    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in _TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def differing(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Names of the files that are in one only, or differ."""
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def half_written(folder: Path) -> list[str]:
    """What a write that was cut short would have left."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*.????????.partial"))


# ---- stories ---------------------------------------------------------------------------------------------------------
def told(story: Callable[..., dict[str, Any]], result: Path, log: Path, *arguments: Any) -> None:
    """The target of a process: run a story, its result into a JSON file."""
    redirect(log)
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    import torch

    torch.set_num_threads(1)
    try:
        result.write_text(json.dumps(story(*arguments)))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def killed(words: list[str], root: Path, num_kills: int) -> dict[str, Any]:
    """Kill a job at moments spread over its changes, the last one included; after each, resume it to its end.

    What kills leave half written beside a target is removed by the next write of that target, a minute later: it is made older.
    """
    log, whole, out = root / "log.txt", root / "whole/job", root / "here/job"
    work = partial(_quietly, words, out, log)
    total = num_changes(partial(_quietly, words, whole, log))
    expected = contents(whole)
    moments = sorted({1 + (2 * number + 1) * total // (2 * num_kills) for number in range(num_kills - 1)} | {total})
    kills, wrong, resumed = 0, {}, 0
    for moment in moments:
        if not killed_at(moment, work):
            continue
        kills += 1
        for path in out.parent.rglob(".*.partial"):
            os.utime(path, (0, 0))
        before = {path: path.stat().st_ino for path in out.rglob("*") if path.is_file()}
        code, text = said_by(words, out, log)
        # One that was killed after its last byte may be refused, because all of it is there.
        problems = [name for name in differing(contents(out), expected) if len(expected) > 1 or name in expected]
        problems += [path.name for path in out.parent.iterdir() if path != out] + half_written(out.parent)
        if code and (problems or code != REFUSED):
            problems.append(text[-1000:])
        resumed += any(path.exists() and path.stat().st_ino == inode for path, inode in before.items())
        if problems:
            wrong[moment] = problems
        shutil.rmtree(out.parent)
    return {"changes": total, "kills": kills, "wrong": wrong, "resumed": resumed, "files": len(expected)}


def _quietly(words: list[str], out: Path, log: Path) -> None:
    redirect(log)
    call(words, out)


def two_at_once(words: list[str], root: Path) -> dict[str, Any]:
    """Stop a job in its middle, begin it a second time, let the first one end."""
    log, whole, out = root / "log.txt", root / "whole/job", root / "here/job"
    total = num_changes(partial(_quietly, words, whole, log))
    first = forked(partial(_quietly, words, out, log), sends(signal.SIGSTOP, total // 2))
    assert os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1])
    before = {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path != log}
    code, text = said_by(words, out, root / "second.txt")
    after = {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path != log}
    after.pop(str(root / "second.txt"))
    os.kill(first, signal.SIGCONT)
    last = ended(first)
    return {
        "second": code,
        "text": text,
        "touched": sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)),
        "first": last,
        "differing": differing(contents(out), contents(whole)),
        "log": log.read_text()[-1500:],
    }


def on_a_small_disk(words: list[str], root: Path, shares: tuple[float, ...]) -> dict[str, Any]:
    """A command on a disk that has room for a part of what it writes, then for all, and can only be read in the end."""
    log, whole, disk = root / "log.txt", root / "whole/job", root / "disk"
    code, text = said_by(words, whole, log)
    assert code == 0, text
    need = sum(-(-path.stat().st_size // 4096) * 4096 for path in whole.rglob("*") if path.is_file())
    disk.mkdir()
    if not small_disk.mounted(disk, 64 * small_disk.MIB + 4 * need):
        os._exit(small_disk.NOT_ALLOWED)
    told: dict[str, Any] = {"need": need, "full": []}
    for share in shares:
        ballast = small_disk.filled(disk, "ballast", int(share * need))
        code, text = said_by(words, disk / "job", log)
        told["full"].append({"code": code, "text": text, "half-written": half_written(disk)})
        ballast.unlink()
        code, text = said_by(words, disk / "job", log)
        told["full"][-1] |= {
            "then": code,
            "said": text[-1000:],
            "differing": differing(contents(disk / "job"), contents(whole)),
        }
        for path in disk.iterdir():
            shutil.rmtree(path)
    small_disk.made_read_only(disk)
    code, text = said_by(words, disk / "job", log)
    return told | {"read-only": code, "text": text}
