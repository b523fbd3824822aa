"""The command line. Each command parses, calls the library, and prints; what goes wrong is said in one message."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from medcodi import __version__
from medcodi.app.progress import progress_bar
from medcodi.app.requests import read_device, read_prompts, read_targets, read_weights, refuse_full_folder
from medcodi.errors import MedCoDiError

if TYPE_CHECKING:
    from medcodi.generation import Generation

REFUSED = 2  # exit code of a refusal: something that the user can mend

app = typer.Typer(
    name="medcodi",
    help="Train, run and judge any-to-any generators of chest examinations: frontal X-ray, lateral X-ray, report.",
    epilog="Start with: medcodi demo. Research only: nothing here is for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Turn real studies into a dataset that trains.")
app.add_typer(data_app, name="data")
out, err = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True, highlight=False)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings that replace those of the file, dotted: optimizer.lr=1e-4."
    ),
]
Model = Annotated[str | None, typer.Option(help="Model folder, or a hub repository.", show_default="the shipped demo")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...", show_default="a GPU where there is one")]


@app.callback(invoke_without_command=True)
def _everywhere(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from (works after any command).")
    ] = False,
) -> None:
    if version:
        out.print(f"medcodi {__version__}")
        raise typer.Exit()


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the page.")] = Path("demo"),
    model: Model = None,
    seed: Annotated[int, typer.Option(help="Which held-out patients, and which noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Sampler steps.", show_default="the model's")] = None,
    device: Device = None,
) -> None:
    """Generate in all 12 directions, and write one page that shows prompts, generated and truth side by side.

    The studies are phantoms that the model has never seen. Nothing is downloaded.

    [bold]Examples[/bold]

        medcodi demo

        medcodi demo --out /tmp/page --seed 7
    """
    from medcodi.app.demo import DemoConfig, write_demo

    page = write_demo(
        DemoConfig(model=model, out=str(out_dir), seed=seed, num_inference_steps=steps, device=read_device(device)),
        console=err,
    )
    out.print(f"The page: {page}")


@app.command()
def doctor() -> None:
    """Say what this machine can do, and how to mend what it cannot. Exit code 1 if something needed is missing.

    [bold]Example[/bold]

        medcodi doctor
    """
    from medcodi.app.doctor import examine, print_checks

    checks = examine(progress=err)
    print_checks(checks, out)
    raise typer.Exit(int(any(check.state == "missing" for check in checks)))


@app.command()
def generate(
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=VALUE",
            help="A prompt: frontal=chest.dcm, report='...' or report=@file.txt. Repeatable. None: unconditional.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY", help="What to generate; repeat for several.", show_default="all that is no prompt"
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for PNGs, texts and provenance.json.")] = Path(
        "generated"
    ),
    model: Model = None,
    num_samples: Annotated[int, typer.Option(help="Samples for this prompt, each with a seed of its own.")] = 1,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=NUMBER", help="Weight of a prompt in the mix, 1 unless told; 0 is as good as absent."
        ),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale; 1 is none.", show_default="the model's")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps.", show_default="the model's")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, dpm++, unipc ...", show_default="the model's")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; the same seed gives the same sample.")] = 0,
    device: Device = None,
) -> None:
    """Generate X-rays and reports from X-rays and reports, any to any.

    [bold]Examples[/bold]

        medcodi generate --prompt report="Large left pleural effusion." --target frontal

        medcodi generate --prompt frontal=chest.dcm --target lateral --target report --num-samples 4

        medcodi generate --prompt frontal=chest.png --prompt report=@report.txt --weight report=0.5 --guidance 3

        medcodi generate --target frontal --steps 30 --sampler dpm++ --seed 7 --out here/
    """
    prompts, targets, weights = read_prompts(prompt or []), read_targets(target or []), read_weights(weight or [])
    refuse_full_folder(out_dir)
    with progress_bar(err) as bar:
        task = bar.add_task("loading", total=None)
        from medcodi.generation import generate as run

        generation = run(
            prompts,
            targets,
            model=model,
            num_samples=num_samples,
            weights=weights,
            guidance_scale=guidance,
            num_inference_steps=steps,
            sampler=sampler,
            seed=seed,
            device=read_device(device),
            on_step=lambda done, total: bar.update(task, description="generating", completed=done, total=total),
        )
    generation.save(out_dir)
    _print_generation(generation, out_dir)


def _print_generation(generation: Generation, folder: Path) -> None:
    for number, sample in enumerate(generation.samples):
        for name, value in sample.contents.items():
            if isinstance(value, str):
                out.print(Panel(value, title=f"{name}, sample {number}", title_align="left", expand=False))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        out.print(str(path))


@data_app.command()
def prepare(
    source: Annotated[str, typer.Option(help="Kind of source: csv, dicom, phantom ...")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the dataset; made whole, or not at all.")],
    settings: Overrides = None,
) -> None:
    """Turn a source of studies into a memory-mapped dataset, with patient-level splits and a ledger.

    The ledger says of every file whether it is in or out, and why. With more than a tenth of the studies bad, the
    command refuses.

    [bold]Examples[/bold]

        medcodi data prepare --source csv --out data/mine path=studies.csv image_size=256

        medcodi data prepare --source dicom --out data/ward path=dicom/ max_bad_fraction=0.2
    """
    from medcodi.config import apply_overrides, from_dict
    from medcodi.data.prepare import PrepareConfig, prepare

    values = apply_overrides({"source": source, "out": str(out_dir)}, settings or [])
    out.print(prepare(from_dict(PrepareConfig, values, source="data prepare")))


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="A training configuration; ready ones lie in configs/train/.")],
    settings: Overrides = None,
    resume: Annotated[str | None, typer.Option(help="'latest', or a checkpoint folder, to go on from.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration and stop.")
    ] = False,
) -> None:
    """Train one stage: autoencode, align, diffuse or join. The same as launch/train.py on one process.

    For several devices: deepspeed launch/train.py --config ... or torchrun launch/train.py --config ...

    [bold]Examples[/bold]

        medcodi train --config configs/train/autoencode.yaml

        medcodi train --config configs/train/diffuse.yaml optimizer.lr=1e-4 --resume latest
    """
    from medcodi.config import load, to_yaml
    from medcodi.training.config import TrainConfig

    run = load(TrainConfig, config, settings or [])
    if print_config:
        print(to_yaml(run), end="")
        return
    from medcodi.training.loop import train as run_stage

    out.print(f"The run: {run_stage(run, resume)}")


@app.command()
def evaluate(
    config: Annotated[
        Path | None, typer.Option(help="An evaluation configuration; ready ones lie in configs/eval/.")
    ] = None,
    settings: Overrides = None,
    model: Model = None,
    data: Annotated[str | None, typer.Option(help="Prepared dataset.", show_default="held-out phantoms")] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder for results.json and page.html.", show_default=False)
    ] = None,
) -> None:
    """Judge a model in every direction against held-out studies, beside a control and the ceiling.

    [bold]Examples[/bold]

        medcodi evaluate num_studies=64

        medcodi evaluate --config configs/eval/demo.yaml

        medcodi evaluate --model runs/join/model --data data/mine --out results/ num_studies=200
    """
    from medcodi.app.evaluation import evaluation_values
    from medcodi.config import apply_overrides, from_dict
    from medcodi.evaluation.matrix import EvaluateConfig
    from medcodi.evaluation.matrix import evaluate as run
    from medcodi.evaluation.results_page import summary_table

    values = apply_overrides(evaluation_values(config, model=model, data=data, out_dir=out_dir), settings or [])
    options = from_dict(EvaluateConfig, values, source=str(config or "evaluate"))
    summary = summary_table(run(options))
    table = Table(*summary.columns)
    for row in summary.rows:
        table.add_row(*row)
    out.print(table)
    out.print(f"The page: {Path(options.out) / 'page.html'}")


@app.command()
def parameters(
    model: Annotated[
        str, typer.Argument(help="A model configuration (configs/models/*.yaml) or a model folder.")
    ] = "configs/models/demo.yaml",
) -> None:
    """Count the parameters of a model, part by part. Nothing is allocated.

    [bold]Examples[/bold]

        medcodi parameters

        medcodi parameters configs/models/medcodi-m.yaml
    """
    from medcodi.app.parameters import parameter_table

    out.print(parameter_table(model))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0, 1 for a failed check, 2 for a refusal."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="medcodi")
    except MedCoDiError as error:
        if debug:
            raise
        print_refusal(error)
        sys.exit(REFUSED)


def print_refusal(error: MedCoDiError) -> None:
    """What failed, what was expected and the mend, a line each, on stderr."""
    err.print("[bold red]Error:[/bold red]", end=" ")
    err.print(error.failed.rstrip(".") + ".", markup=False)
    for label, text in (("Expected", error.expected), ("Mend", error.mend)):
        if text:
            err.print(f"[bold]{label}:[/bold]", end=" ")
            err.print(text.rstrip(".") + ".", markup=False)


if __name__ == "__main__":
    main()
