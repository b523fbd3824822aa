"""``medcodi fit`` and ``medcodi merge``: from a folder of studies to a trained and evaluated model; from several models to one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcodi.app.arguments import Overrides
from medcodi.app.terminal import app, out, say_loading


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="A table (CSV, TSV), a folder of studies, or a prepared dataset.")],
    settings: Overrides = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of everything that the fit makes.")] = Path("runs/fit"),
    size: Annotated[str | None, typer.Option(help="tiny or demo.", show_default="by the number of studies")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time of the whole fit, shared among its stages.", show_default="by size and machine"),
    ] = None,
) -> None:
    """Fit a model to your own studies: prepare them, train all four stages, evaluate.

    Kill it at any moment: the same command resumes. The model is in OUT/model, its page is OUT/evaluation/page.html.
    Settings are those of data prepare, such as options.study_is_patient=true.

    [bold]Examples[/bold]

        medcodi data sample sample

        medcodi fit sample --out runs/mine

        medcodi fit studies.csv --out runs/mine --minutes 600 options.study_is_patient=true

        medcodi fit data/ward --out runs/ward --size demo
    """
    from medcodi.app.fitting.inputs import open_data
    from medcodi.app.fitting.job import FIT, Fit
    from medcodi.app.fitting.plan import check_size, choose_size, default_minutes, gpu_gib
    from medcodi.errors import TrainingError
    from medcodi.storage.job_folder import JobFolder

    # Look at everything before anything is written.
    if size is not None:
        check_size(size)
    if minutes is not None and minutes <= 0:
        raise TrainingError(f"--minutes is {minutes}, must be above 0", fix="--minutes 5, or leave it out")
    studies = open_data(data, settings or [])
    begun = (JobFolder(out_dir, FIT).read_index() or {}).get("identity", {}).get("size")
    if size is not None:
        why = "as given"
    elif begun:
        size, why = str(begun), "as this fit began"
    else:
        size, why = choose_size(studies.counts["train"])
    machine = "as given"
    if minutes is None:
        minutes, machine = default_minutes(size, gpu_gib())
    plan = Fit(data=studies, size=size, out=out_dir, minutes=minutes, say=out.print)

    # Say what will be done, and do it.
    for line in plan.description(why, machine):
        out.print(line)
    model = plan.run()
    out.print(f"The model: {model}    (medcodi generate --model {model} --help)")
    if not plan.without_evaluation():
        out.print(f"The page: {out_dir / 'evaluation' / 'page.html'}")


@app.command()
def merge(
    sources: Annotated[
        list[Path], typer.Argument(help="Adapters (adapter.safetensors of runs with low_rank), or model folders.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the merged model.")],
    base: Annotated[str, typer.Option(help="The model that the adapters change: a folder, or demo.")] = "demo",
    weights: Annotated[
        str | None,
        typer.Option(help="Weight of each source, joined by commas: 900,300.", show_default="all the same"),
    ] = None,
) -> None:
    """Merge adapters into the model that they change, or average models.

    An adapter names its model, and is refused for any other. Weights are divided by their sum.

    [bold]Examples[/bold]

        medcodi merge runs/mine/adapter.safetensors --out models/mine

        medcodi merge a.safetensors b.safetensors --weights 900,300 --base models/public --out models/both

        medcodi merge models/site-a models/site-b --out models/average
    """
    from medcodi.app.arguments import refuse_full_folder
    from medcodi.errors import PromptError

    # Refuse before the networks' libraries are loaded.
    refuse_full_folder(out_dir)
    try:
        shares = None if weights is None else [float(weight) for weight in weights.split(",")]
    except ValueError:
        raise PromptError(f"--weights {weights!r}", expected="numbers joined by commas, such as 900,300") from None
    say_loading("the models")
    from medcodi.model import merge as merged

    model = merged(sources, base=base, weights=shares)
    out.print(f"The model: {model.save_pretrained(out_dir)}    ({model.identity()[:16]})")
