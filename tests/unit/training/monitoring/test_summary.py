"""A run on one page, and several beside each other."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medcodi.app.cli import app
from medcodi.errors import TrainingError
from medcodi.training.monitoring.summary import groups, page, read_run, write_summary


def run(root: Path, height: float = 1.0) -> Path:
    root.mkdir()
    lines = [
        {
            "step": step,
            "loss": height / step,
            "loss/frontal": height / step,
            "loss/frontal/from report": height / step,
            "grad_norm": 0.5,
            "timing": {"studies_per_second": 3.0, "cpu_gib": 1.0},
        }
        for step in range(1, 30)
    ]
    lines.append(
        {"step": 29, "validation/loss": 0.4, "validation/t/000-099/frontal": 0.9, "validation/t/900-999/frontal": 0.1}
    )
    lines.append({"step": 29, "alerts": ["loss spike: <b>look</b>"]})
    lines.append({"step": 29, "alerts": ["\ud800"]})  # no text: the line is left out
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "lo'  # it goes on writing
    (root / "log.jsonl").write_text(text)
    return root


def test_one_run_shows_every_figure(tmp_path: Path) -> None:
    text = write_summary([run(tmp_path / "one")], tmp_path / "summary.html").read_text()
    titles = ["loss of each modality", "loss of frontal by its prompts", "studies per second", "gradient norm"]
    assert all(f">{title}</text>" in text for title in [*titles, "frontal: last validation loss against t"])
    assert "&lt;b&gt;look" in text and "<b>look" not in text and "http" not in text.replace("http-equiv", "")
    for svg in text.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")


def test_several_runs_share_charts(tmp_path: Path) -> None:
    runs = [read_run(run(tmp_path / name, height)) for name, height in (("one", 1.0), ("two", 2.0))]
    text = page(runs)
    loss = text.split(">loss</text>")[1].partition("</svg>")[0]
    assert loss.count("<path d=") >= 2 and ">one</text>" in loss and ">two</text>" in loss


def test_the_command(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one"), run(tmp_path / "two")
    result = CliRunner().invoke(app, ["plot", str(one)])
    assert result.exit_code == 0 and (one / "summary.html").is_file(), result.output
    result = CliRunner().invoke(app, ["plot", str(one), str(two), "--out", str(tmp_path / "both.html")])
    assert result.exit_code == 0 and (tmp_path / "both.html").is_file(), result.output
    with pytest.raises(TrainingError, match="--out"):
        CliRunner().invoke(app, ["plot", str(one), str(two)], catch_exceptions=False)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no log\.jsonl"):
        read_run(tmp_path)
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(TrainingError, match="no values yet"):
        read_run(tmp_path)


def test_every_figure_is_in_one_chart() -> None:
    names = ["lr", "loss/a", "loss", "loss/a/from b", "timing/mfu", "validation/t/000-099/a", "a-b/top1", "moved/a"]
    found = groups(names)
    assert sorted(name for chosen in found.values() for name in chosen) == sorted(names) and next(iter(found)) == "loss"
