"""Quality figures of the documents are those of the results files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "benchmarks/results/evaluation_demo.json"


def figures(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, root / "tools/figures.py", *words], capture_output=True, text=True)


def test_documents_have_the_figures_of_their_results_files() -> None:
    done = figures(ROOT)
    assert done.returncode == 0, done.stdout


def test_a_changed_result_is_named_and_written(tmp_path: Path) -> None:
    documents = ("README.md", "docs/EVALUATION.md", "tools/figures.py", "checkpoints/demo/finding_classifier.json")
    for name in (*documents, *(str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks/results").glob("*.json"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    # A better model: the table, and the sentence in README, differ until they are written.
    results = json.loads((ROOT / RESULTS).read_text())
    primary = results["systems"]["demo"]["directions"]["report->frontal"]["primary"]
    primary["fraction_of_ceiling"], primary["fraction_high"] = 0.97, 0.98
    (tmp_path / RESULTS).write_text(json.dumps(results))
    done = figures(tmp_path)
    assert done.returncode == 1 and "findings is not what benchmarks/results/evaluation_demo.json has" in done.stdout
    assert f"{tmp_path / 'README.md'}: verdict is not" in done.stdout and "coherence" not in done.stdout
    assert figures(tmp_path, "--write").returncode == 0 and figures(tmp_path).returncode == 0
    assert "at 87 to 97 % of its ceiling" in (tmp_path / "README.md").read_text()
    assert "0.97 [0.93, 0.98]" in (tmp_path / "docs/EVALUATION.md").read_text()

    # Several systems, as of an evaluation of orders: each row names its own.
    results["systems"]["demo-chained"] = results["systems"]["demo"]
    (tmp_path / RESULTS).write_text(json.dumps(results))
    figures(tmp_path, "--write")
    text = (tmp_path / "docs/EVALUATION.md").read_text()
    assert "| direction | system | pair |" in text and "| report → frontal | demo-chained | 0.90" in text


def test_a_figure_without_its_results_file_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "tools/figures.py", tmp_path / "tools/figures.py")
    (tmp_path / "README.md").write_text("Speed: <!-- figures: later.json passes -->12 s<!-- /figures -->.")
    assert figures(tmp_path).returncode == 1 and figures(tmp_path, "--write").returncode == 0
    assert ">not measured<" in (tmp_path / "README.md").read_text()


def test_speed_beside_peers_is_a_table_of_its_results_file(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "tools/figures.py", tmp_path / "tools/figures.py")
    spread = {"median": 1.0, "min": 0.5, "max": 2.0}
    times = {"ours": {"seconds": spread}, "peer": {"seconds": {**spread, "median": 4.0}}}
    part = {"what": "a step", "times": times, "ratios": {"peer": {"median": 0.25, "min": 0.2, "max": 0.3}}}
    part |= {"goal": 0.5, "turns": 5, "machine": {"cpu": "a CPU", "threads": 1, "load_average": 3.2}}
    (tmp_path / "peers.json").write_text(
        json.dumps({"parts": {"one": part, "two": {"skipped": "it is not installed"}}})
    )
    (tmp_path / "README.md").write_text("<!-- figures: peers.json peers --><!-- /figures -->")
    assert figures(tmp_path, "--write").returncode == 0
    row = "| a step | peer | 1.00 s (0.50 to 2.00) | 4.00 s (0.50 to 2.00) | 0.25 (0.20 to 0.30) | ≤ 0.50 | 5; a CPU, 1 thread, load 3 |"
    text = (tmp_path / "README.md").read_text()
    assert row in text and "| two | not measured: it is not installed | – |" in text
