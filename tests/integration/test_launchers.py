"""Other ways to start a run: accelerate, Slurm's script, a hostfile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.forked import curve, free_port

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "launch/slurm"
QUIET = ("tracking.tensorboard=false", "tracking.samples_every=0", "tracking.validate_every=0", "checkpoint.every=0")
SBATCH_OPTIONS = {
    "job-name",
    "nodes",
    "gpus-per-node",
    "ntasks-per-node",
    "cpus-per-task",
    "time",
    "signal",
    "requeue",
    "open-mode",
    "output",
}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


@pytest.mark.faults
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--num_processes", "2", "--multi_gpu"], id="ddp"),
        pytest.param(["--num_processes", "1", "--use_deepspeed"], id="deepspeed"),
    ],
)
def test_accelerate_launch(tiny_runs: dict[str, Path], tmp_path: Path, words: list[str]) -> None:
    pytest.importorskip("deepspeed" if "--use_deepspeed" in words else "accelerate")
    start = [f"out={tmp_path / 'run'}", f"init={tiny_runs['autoencode'] / 'model'}", *QUIET]
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "--main_process_port", str(free_port()), *words),
        *("launch/train.py", "--config", "configs/train/tiny/align.yaml", *start),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    ranks = words[words.index("--num_processes") + 1]
    assert f"× {ranks} (ranks)" in done.stdout
    assert curve(tmp_path / "run") == pytest.approx(curve(tiny_runs["align"]), abs=1e-5)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ctrl_c_saves_and_the_same_command_resumes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "launch/train.py", "--config", "configs/train/tiny/autoencode.yaml", f"out={run}"]
    process = subprocess.Popen(
        [*command, "steps=100000", "tracking.log_every=1", *QUIET],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    log = run / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and "Traceback" not in printed
    assert "SIGINT received: saved at step" in printed and list((run / "checkpoints").glob("step-*"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_refusal_under_ranks_is_printed_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command += ["launch/train.py", "--config", "configs/train/tiny/autoencode.yaml", f"out={tmp_path / 'run'}"]
    for setting, refusal in (("data.path=nowhere", "no dataset folder at nowhere"), ("stepz=3", "unknown key 'stepz'")):
        done = subprocess.run(
            [*command, setting, *([] if setting == "stepz=3" else ["data.source=null"])],
            cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        assert done.returncode and printed.count(refusal) == 1, printed
        assert refusal in "\n".join(done.stderr.rstrip().splitlines()[-4:]), printed  # last, in torchrun's own report
        assert "out of memory" not in printed and 'launch/train.py", line' not in printed  # no trace of ours


# ---- Slurm ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("script", ["train.sbatch", "stages.sh"])
def test_scripts_are_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n", SLURM / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_batch_options_are_slurms() -> None:
    lines = [line for line in (SLURM / "train.sbatch").read_text().splitlines() if line.startswith("#SBATCH")]
    options = dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups() for line in lines)  # type: ignore[union-attr]
    assert options.keys() == SBATCH_OPTIONS
    assert options["gpus-per-node"] == options["ntasks-per-node"]


def cluster(folder: Path, tasks: int) -> dict[str, str]:
    """A cluster of one machine: srun runs the tasks one after the other, scontrol and sbatch say what they were asked."""
    folder.mkdir()
    programs = {
        "srun": f'while [[ $1 == --* ]]; do shift; done; for i in $(seq 0 {tasks - 1}); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@"; done',
        "scontrol": 'if [[ $1 == show ]]; then echo node-1; echo node-2; else echo "scontrol $*"; fi',
        "sbatch": 'echo "$@" >> submitted.txt; wc -l < submitted.txt',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\nset -eu\n{text}\n")
        (folder / name).chmod(0o755)
    task = folder / "python"
    task.write_text(
        "#!/bin/bash\n"
        'if [[ "$*" == *--print-config* ]]; then echo "seed: 0"; echo "out: $OUT"; exit; fi\n'
        'echo "rank $RANK of $WORLD_SIZE local $LOCAL_RANK at $MASTER_ADDR:$MASTER_PORT threads $OMP_NUM_THREADS: $*"\n'
        'mkdir -p "$OUT/checkpoints/step-${STEP:-00000000}"\n'
        'exit "${CODE:-0}"\n'
    )
    task.chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_ID": "40007", "SLURM_CPUS_PER_TASK": "4"}
    path = f"{folder}:{os.environ['PATH']}"
    values = environment(PATH=path, PYTHON=str(task), SLURM_NTASKS=str(tasks), OUT=str(folder / "run"), **slurm)
    values.pop("OMP_NUM_THREADS")
    return values


def submitted(values: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SLURM / "train.sbatch"), "--config", "a.yaml", "seed=1"]
    return subprocess.run(command, env={**values, **more}, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_each_task_is_a_rank_and_an_unfinished_run_goes_back_into_the_queue(tmp_path: Path) -> None:
    done = submitted(cluster(tmp_path / "cluster", tasks=2))
    assert done.returncode == 0, done.stderr
    said = "local {0} at node-1:20007 threads 4: launch/train.py --config a.yaml seed=1 --resume latest"
    assert f"rank 0 of 2 {said.format(0)}\nrank 1 of 2 {said.format(1)}\n" in done.stdout
    assert done.stdout.endswith("scontrol requeue 40007\n")


def test_a_finished_run_a_refusal_and_too_many_restarts_do_not_go_back(tmp_path: Path) -> None:
    values = cluster(tmp_path / "cluster", tasks=1)
    refused = submitted(values, CODE="2")
    assert refused.returncode == 2 and "requeue" not in refused.stdout
    crashed = submitted(values, CODE="1", STEP="00000100")
    assert crashed.returncode == 0 and "requeue" in crashed.stdout  # it came further, so it may go on
    stuck = submitted(values, CODE="1", STEP="00000100")
    assert stuck.returncode == 1 and "no step further" in stuck.stderr and "requeue" not in stuck.stdout
    worn = submitted(values, SLURM_RESTART_COUNT="100")
    assert worn.returncode == 1 and "after 100 restarts" in worn.stderr and "requeue" not in worn.stdout
    (tmp_path / "cluster/run/model").mkdir(parents=True)
    (tmp_path / "cluster/run/model/model_index.json").write_text("{}")
    finished = submitted(values)
    assert finished.returncode == 0 and "requeue" not in finished.stdout


def test_stages_wait_for_one_another(tmp_path: Path) -> None:
    values = cluster(tmp_path / "cluster", tasks=1)
    configs = ROOT / "configs/train/medcodi-m"
    command = ["bash", str(SLURM / "stages.sh"), str(configs), "--nodes=4"]
    done = subprocess.run(command, env=values, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    jobs = (tmp_path / "submitted.txt").read_text().splitlines()
    assert len(jobs) == len(list(configs.glob("*.yaml"))) == 4
    assert "--dependency" not in jobs[0] and "--dependency=afterok:3 --nodes=4" in jobs[3]
    assert [re.search(r"\d-([a-z]+).yaml", job)[1] for job in jobs] == ["autoencode", "align", "diffuse", "join"]  # type: ignore[index]


def test_deepspeed_reads_the_hostfile() -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    assert runner.fetch_hostfile(str(SLURM / "hostfile.example")) == {f"worker-{i}": 8 for i in range(1, 5)}
