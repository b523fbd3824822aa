"""A run, or several beside each other, on one page: curves of what was logged, signs of trouble, the last samples."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medcodi.errors import TrainingError
from medcodi.training.monitoring.curves import Curve, chart
from medcodi.training.monitoring.observer import Observer

PAGE = "summary.html"
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}.charts{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0}figcaption{font-size:.85rem;color:#555}img{max-width:100%}li{margin:.3rem 0}
table{border-collapse:collapse}td,th{padding:.1rem .8rem .1rem 0;text-align:left}"""


@dataclass(frozen=True)
class RunStory:
    """What one run logged.

    Attributes:
        name: Of its folder.
        root: The folder.
        curves: Name of a figure -> its points (step, value), the machine's under ``timing/``.
        alerts: (step, text) of the signs of trouble.
    """

    name: str
    root: Path
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    alerts: list[tuple[int, str]] = field(default_factory=list)


def read_story(root: str | Path) -> RunStory:
    """Read a run's ``log.jsonl``.

    Raises:
        TrainingError: If there is none, or nothing was logged yet.
    """
    root = Path(root)
    path = root / "log.jsonl"
    if not path.is_file():
        raise TrainingError(
            f"no log.jsonl in {root}",
            expected="the folder of a run",
            fix="name its out=… folder; it must have logged a line",
        )
    story = RunStory(root.resolve().name, root)
    for text in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, KeyError):  # the last line of a run that goes on, or was killed, may be cut short
            line = json.loads(text)
            step = int(line.pop("step"))
            story.alerts.extend((step, sign) for sign in line.pop("alerts", []))
            timing = {f"timing/{name}": value for name, value in line.pop("timing", {}).items()}
            for name, value in {**line, **timing}.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    story.curves.setdefault(name, []).append((step, float(value)))
    if not story.curves:
        raise TrainingError(f"{path} holds no figures yet", fix="wait for tracking.log_every steps")
    return story


def groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Which figures share a chart: title -> names, in the order of the page; every name is in exactly one."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_title(name), []).append(name)
    order = {title: place for place, title in enumerate(FIRST)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


FIRST = ("loss", "loss of each modality", "validation loss", "gradient norm", "studies a second")
_ALONE = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "clipped": "share of steps whose gradient was clipped",
    "lr": "learning rate",
    "timing/studies_per_second": "studies a second",
    "timing/seconds_per_step": "seconds a step",
    "timing/data_wait": "share of the time spent waiting for data",
    "timing/mfu": "model FLOPs utilisation",
    "timing/gflops_per_study": "what utilisation is made of",
    "timing/peak_tflops": "what utilisation is made of",
    "validation/loss": "validation loss",
}


def _title(name: str) -> str:
    first, *rest = name.split("/")
    if name in _ALONE:
        return _ALONE[name]
    if name.startswith("timing/"):
        return "memory, GiB, of the rank that has most"
    if name.startswith("validation/t/"):
        return f"validation loss of {rest[-1]} by timestep"
    if first == "validation":
        return f"validation: {_title('/'.join(rest))}"
    if first == "loss":
        return "loss of each modality" if len(rest) == 1 else f"loss of {rest[0]} by what it is made from"
    if first == "moved":
        return "relative change of norms and biases in one step"
    return f"{first}: {'/'.join(rest)}" if rest else name


def page(stories: Sequence[RunStory]) -> str:
    """The page: self-contained HTML.

    Args:
        stories: One run, or several to be compared: a chart then holds a line of each, in the run's colour.
    """
    names = list(dict.fromkeys(name for story in stories for name in story.curves))
    charts = []
    for title, chosen in groups(names).items():
        curves = [
            Curve(_label(story, name, chosen, stories), story.curves[name], *_look(stories, story, chosen, name))
            for story in stories
            for name in chosen
            if name in story.curves
        ]
        charts.append(chart(title, curves))
    heading = " · ".join(html.escape(story.name) for story in stories)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{heading}</title><style>{STYLE}</style>",
        f"<h1>{heading}</h1>",
        _last_figures(stories),
        *(_alerts(story) for story in stories),
        f"<h2>Curves</h2><div class=charts>{''.join(charts)}</div>",
        *(_buckets(stories, names)),
        *(_samples(story) for story in stories),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _label(story: RunStory, name: str, chosen: Sequence[str], stories: Sequence[RunStory]) -> str:
    short = _short(name)
    if len(stories) == 1:
        return short
    return story.name if len(chosen) == 1 else f"{story.name}: {short}"


def _short(name: str) -> str:
    for prefix in ("timing/", "validation/t/", "validation/", "moved/"):
        name = name.removeprefix(prefix)
    first, _, rest = name.partition("/")
    if first == "loss" and rest:
        return rest.rpartition("/")[2]
    return first if first[:3].isdigit() else name


def _look(stories: Sequence[RunStory], story: RunStory, chosen: Sequence[str], name: str) -> tuple[int, int]:
    """Colour and dash: of several runs the colour is the run's, of one the figure's."""
    if len(stories) == 1:
        return chosen.index(name), 0
    return list(stories).index(story), chosen.index(name)


def _last_figures(stories: Sequence[RunStory]) -> str:
    rows = []
    for story in stories:
        last = {name: points[-1] for name, points in story.curves.items()}
        step = max(step for step, _ in last.values())
        shown = [f"{label} {last[name][1]:.4g}" for name, label in _HEAD.items() if name in last]
        rows.append(f"<tr><th>{html.escape(story.name)}<td>step {step:,}<td>{'<td>'.join(shown)}")
    return f"<table>{''.join(rows)}</table>"


_HEAD = {
    "loss": "loss",
    "validation/loss": "validation loss",
    "timing/studies_per_second": "studies/s",
    "timing/mfu": "MFU",
    "timing/data_wait": "data wait",
}


def _alerts(story: RunStory) -> str:
    if not story.alerts:
        return ""
    items = "".join(f"<li>step {step:,}: {html.escape(text)}" for step, text in story.alerts)
    return f"<h2>Signs of trouble in {html.escape(story.name)}</h2><ul>{items}</ul>"


def _buckets(stories: Sequence[RunStory], names: Sequence[str]) -> list[str]:
    """The last validation, bucket by bucket: loss against t."""
    buckets = [name for name in names if name.startswith("validation/t/")]
    charts = []
    for modality in dict.fromkeys(name.rpartition("/")[2] for name in buckets):
        chosen = [name for name in buckets if name.endswith(f"/{modality}")]
        curves = []
        for place, story in enumerate(stories):
            points = [(_middle(name), story.curves[name][-1][1]) for name in chosen if name in story.curves]
            if points:
                curves.append(Curve(story.name, sorted(points), place, 0))
        charts.append(chart(f"{modality}: last validation loss against t", curves, across="t"))
    return [f"<h2>Loss against the timestep</h2><div class=charts>{''.join(charts)}</div>"] if charts else []


def _middle(name: str) -> int:
    first, _, last = name.split("/")[2].partition("-")
    return (int(first) + int(last) + 1) // 2


def _samples(story: RunStory) -> str:
    pictures = sorted((story.root / "samples").glob("step-*.png"))
    if not pictures:
        return ""
    data = base64.b64encode(pictures[-1].read_bytes()).decode()
    title = html.escape(f"{story.name}: samples, {pictures[-1].stem}")
    return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">'


def write_summary(roots: Sequence[str | Path], path: str | Path) -> Path:
    """Read runs and write the page.

    Args:
        roots: Folders of the runs.
        path: Of the page.

    Raises:
        TrainingError: If a folder holds no log, or the page cannot be written.
    """
    text, path = page([read_story(root) for root in roots]), Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error.strerror}", fix="name another file with --out") from None
    return path


class SummaryPage(Observer):
    """Writes the run's own page at its end. It is an extra: without a line in the log there is none."""

    def on_end(self) -> None:
        """Write ``summary.html`` on the first rank."""
        if self.run.config.tracking.summary and self.run.ranks.is_first:
            with suppress(TrainingError):
                write_summary([self.run.folder.root], self.run.folder.root / PAGE)
