"""A run, or several beside each other, on one page: curves of what was logged, signs of trouble, the last samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medcodi.errors import MedCoDiError, TrainingError
from medcodi.pages.charts import Curve, line_chart
from medcodi.pages.page import Figure, Head, Plot, Section, Table, png_data_uri, render_page, write_page
from medcodi.training.monitoring.observer import Observer

PAGE = "summary.html"
LARGEST = 1e100  # of a figure: charts compute with its square
FIRST = ("loss", "loss of each modality", "validation loss", "gradient norm", "studies per second")  # charts, by title
_TITLES = {  # value -> title of its chart
    "loss": "loss",
    "grad_norm": "gradient norm",
    "clipped": "share of steps whose gradient was clipped",
    "lr": "learning rate",
    "timing/studies_per_second": "studies per second",
    "timing/seconds_per_step": "seconds per step",
    "timing/data_wait": "share of the time spent waiting for data",
    "timing/mfu": "model FLOPs utilisation",
    "timing/gflops_per_study": "what utilisation is computed from",
    "timing/peak_tflops": "what utilisation is computed from",
    "validation/loss": "validation loss",
}
_COLUMNS = {  # value -> column of the table of last values
    "loss": "loss",
    "validation/loss": "validation loss",
    "timing/studies_per_second": "studies/s",
    "timing/mfu": "MFU",
    "timing/data_wait": "data wait",
}


@dataclass(frozen=True)
class LoggedRun:
    """The log of one run, read back."""

    name: str  # of its folder
    root: Path
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # name -> (step, value); timing/… too
    alerts: list[tuple[int, str]] = field(default_factory=list)  # (step, text) of the signs of trouble


def read_run(root: str | Path) -> LoggedRun:
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
    run = LoggedRun(root.resolve().name, root)
    for text in path.read_text(encoding="utf-8").splitlines():
        # The last line of a run that is training, or was killed, may be cut short; a log may be anybody's.
        with suppress(ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            line = json.loads(text)
            json.dumps(line, ensure_ascii=False).encode()  # raises where a text is none (a lone surrogate)
            step = int(line.pop("step"))
            run.alerts.extend((step, sign) for sign in line.pop("alerts", []))
            timing = {f"timing/{name}": value for name, value in line.pop("timing", {}).items()}
            for name, value in {**line, **timing}.items():
                if isinstance(value, (int, float)) and abs(value) < LARGEST:  # no NaN
                    run.curves.setdefault(name, []).append((step, float(value)))
    if not run.curves:
        raise TrainingError(f"{path} holds no values yet", fix="wait for tracking.log_every steps")
    return run


def groups(names: Sequence[str]) -> dict[str, list[str]]:
    """The charts of the page, in order: title -> names of the values in it; every name is in exactly one."""
    charts: dict[str, list[str]] = {}
    for name in names:
        charts.setdefault(_title(name), []).append(name)
    order = {title: place for place, title in enumerate(FIRST)}
    return dict(sorted(charts.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def _title(name: str) -> str:
    first, *rest = name.split("/")
    if name in _TITLES:
        return _TITLES[name]
    if name.startswith("timing/"):
        return "memory, GiB, of the rank that uses most"
    if name.startswith("validation/t/"):
        return f"validation loss of {rest[-1]} by timestep"
    if first == "validation":
        return f"validation: {_title('/'.join(rest))}"
    if first == "loss":
        return "loss of each modality" if len(rest) == 1 else f"loss of {rest[0]} by its prompts"
    if first == "moved":
        return "relative change of norms and biases in one step"
    return f"{first}: {'/'.join(rest)}" if rest else name


def page(runs: Sequence[LoggedRun]) -> str:
    """The page, self-contained HTML, of one run or of several: a chart then has a line of each, in the run's colour."""
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    charts = []
    for title, chosen in groups(names).items():
        curves = [
            Curve(_label(run, name, chosen, runs), run.curves[name], *_look(runs, run, chosen, name))
            for run in runs
            for name in chosen
            if name in run.curves
        ]
        charts.append(Plot(svg=line_chart(title, curves)))
    sections = [
        Section(title="Last values", tables=[_last_figures(runs)]),
        *(
            Section(
                title=f"Signs of trouble in {run.name}",
                alarms=[f"step {step:,}: {text}" for step, text in run.alerts],
            )
            for run in runs
            if run.alerts
        ),
        Section(title="Curves", plots=charts),
        *_buckets(runs, names),
        *_samples(runs),
    ]
    return render_page(Head(title=" · ".join(run.name for run in runs)), sections)


def _label(run: LoggedRun, name: str, chosen: Sequence[str], runs: Sequence[LoggedRun]) -> str:
    short = _short(name)
    if len(runs) == 1:
        return short
    return run.name if len(chosen) == 1 else f"{run.name}: {short}"


def _short(name: str) -> str:
    for prefix in ("timing/", "validation/t/", "validation/", "moved/"):
        name = name.removeprefix(prefix)
    first, _, rest = name.partition("/")
    if first == "loss" and rest:
        return rest.rpartition("/")[2]
    return first if first[:3].isdigit() else name  # a bucket of timesteps: 000-099


def _look(runs: Sequence[LoggedRun], run: LoggedRun, chosen: Sequence[str], name: str) -> tuple[int, int]:
    """Colour and dash: of several runs the colour is the run's, of one the figure's."""
    if len(runs) == 1:
        return chosen.index(name), 0
    return list(runs).index(run), chosen.index(name)


def _last_figures(runs: Sequence[LoggedRun]) -> Table:
    rows = []
    for run in runs:
        last = {name: points[-1] for name, points in run.curves.items()}
        step = max(step for step, _ in last.values())
        values = [
            Figure(text=f"{last[name][1]:.4g}", value=last[name][1]) if name in last else "–" for name in _COLUMNS
        ]
        rows.append([run.name, Figure(text=f"{step:,}", value=step), *values])
    return Table(columns=["run", "step", *_COLUMNS.values()], rows=rows)


def _buckets(runs: Sequence[LoggedRun], names: Sequence[str]) -> list[Section]:
    """The last validation, bucket by bucket: loss against t."""
    buckets = [name for name in names if name.startswith("validation/t/")]
    charts = []
    for modality in dict.fromkeys(name.rpartition("/")[2] for name in buckets):
        chosen = [name for name in buckets if name.endswith(f"/{modality}")]
        curves = []
        for place, run in enumerate(runs):
            points = [(_middle(name), run.curves[name][-1][1]) for name in chosen if name in run.curves]
            if points:
                curves.append(Curve(run.name, sorted(points), place, 0))
        charts.append(Plot(svg=line_chart(f"{modality}: last validation loss against t", curves, x_label="t")))
    return [Section(title="Loss against the timestep", plots=charts)] if charts else []


def _middle(name: str) -> int:
    first, _, last = name.split("/")[2].partition("-")
    return (int(first) + int(last) + 1) // 2


def _samples(runs: Sequence[LoggedRun]) -> list[Section]:
    """The last contact sheet of each run."""
    sections = []
    for run in runs:
        if sheets := sorted((run.root / "samples").glob("step-*.png")):
            title = f"{run.name}: samples, {sheets[-1].stem}"
            picture = Plot(uri=png_data_uri(sheets[-1].read_bytes()), caption=title)
            sections.append(Section(title=title, plots=[picture]))
    return sections


def write_summary(roots: Sequence[str | Path], path: str | Path) -> Path:
    """Write the page of the runs in some folders.

    Raises:
        TrainingError: If a folder holds no log.
        DataError: If the page cannot be written.
    """
    return write_page(path, page([read_run(root) for root in roots]))


class SummaryPage(Observer):
    """Writes the run's own page at its end. It is an extra: without a line in the log there is none."""

    def on_end(self) -> None:
        """Write ``summary.html`` on the first rank."""
        if self.run.config.tracking.summary and self.run.ranks.is_first:
            with suppress(MedCoDiError):
                write_summary([self.run.folder.root], self.run.folder.root / PAGE)
