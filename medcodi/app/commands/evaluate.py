"""``medcodi evaluate``: judge a model, or what other systems generated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from medcodi.app.arguments import Model, Overrides
from medcodi.app.terminal import app, err, out
from medcodi.errors import ConfigError

if TYPE_CHECKING:
    from medcodi.evaluation.options import EvaluateConfig

NUM_STUDIES = 200  # of the phantom, unless the file or the command line names a number


@app.command()
def evaluate(
    config: Annotated[
        Path | None, typer.Option(help="An evaluation configuration; ready ones lie in configs/eval/.")
    ] = None,
    settings: Overrides = None,
    model: Model = None,
    data: Annotated[str | None, typer.Option(help="Prepared dataset.", show_default="held-out phantoms")] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder of the bundle.", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(help="Sampler and steps: fast, faster, reference.")] = None,
    generated: Annotated[
        Path | None, typer.Option(help="Judge what another system generated: a folder or a CSV.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="Its name.", show_default="of the folder")] = None,
    systems: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Several systems in one table; repeatable.")
    ] = None,
    exclude_unreadable: Annotated[
        bool, typer.Option("--exclude-unreadable", help="List what cannot be read as excluded, and go on without it.")
    ] = False,
    verify: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Compute a bundle's figures again and say what differs.")
    ] = None,
) -> None:
    """Judge a model, or any system's images and reports, in every direction, beside a control and the ceiling.

    One folder holds the figures, a page, the exact lists and hashes of what was scored, and what was generated.

    [bold]Examples[/bold]

        medcodi evaluate num_studies=64

        medcodi evaluate --config configs/eval/demo.yaml

        medcodi evaluate --model runs/join/model --data data/mine --out results/ num_studies=200

        medcodi evaluate --generated theirs/ --system RoentGen --data data/mine --out results/

        medcodi evaluate --systems RoentGen=theirs/ UniXGen=others.csv --data data/mine --out results/

        medcodi evaluate --verify results/
    """
    from medcodi.config import apply_overrides, from_dict
    from medcodi.evaluation.options import EvaluateConfig

    if verify is not None:
        _verify(verify, data, model)
        return
    named, overrides = named_systems(generated, system, systems or [], settings or [])
    values = evaluation_values(
        config, model=model, data=data, out_dir=out_dir, systems=named, preset=preset, exclude=exclude_unreadable
    )
    options = from_dict(EvaluateConfig, apply_overrides(values, overrides), source=str(config or "evaluate"))
    evaluate_and_print(options)


def evaluate_and_print(options: EvaluateConfig) -> None:
    """Evaluate; the first rank prints the table, what the figures say, and what must not be overlooked."""
    from medcodi.evaluation.matrix import evaluate as run
    from medcodi.evaluation.pages.summary import terminal_table
    from medcodi.evaluation.pages.verdict import alarms, verdict

    results = run(options)
    if int(os.environ.get("RANK", "0")):
        return
    columns, rows = terminal_table(results)
    table = Table(*columns, show_lines=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    for line in verdict(results):
        out.print(line, markup=False)
    for line in alarms(results):
        err.print(f"[yellow]Note:[/yellow] {escape(line)}")
    out.print(f"The page: {Path(options.out) / 'page.html'}")


def _verify(folder: Path, data: str | None, model: str | None) -> None:
    from medcodi.evaluation.verification import verify_bundle

    found = verify_bundle(folder, data=data, model=model)
    for one in found.differences:
        out.print(f"- {one}", markup=False)
    for note in found.notes:
        err.print(f"[yellow]Note:[/yellow] {escape(note)}")
    checked = f"{found.num_files} files, {found.num_contents} contents, {found.num_figures} figures"
    if not found.holds:
        out.print(f"{folder} does not hold: {len(found.differences)} differences ({checked} looked at).")
        raise typer.Exit(1)
    out.print(f"{folder} holds: {checked} are as it says.")


def evaluation_values(
    config: Path | None,
    *,
    model: str | None,
    data: str | None,
    out_dir: Path | None,
    systems: Mapping[str, str] | None = None,
    preset: str | None = None,
    exclude: bool = False,
) -> dict[str, Any]:
    """Plain values: those of the file, and what the options replace.

    Args:
        config: YAML file; None: held-out phantoms of the model's own image size.
        model: Model folder or hub repository; None: as the file says, else the shipped demo.
        data: Prepared dataset in the place of the file's (split, number of studies and image size stay as the file says; without it: the
            test split, at the size it was prepared at); None: as the file says, else phantoms.
        out_dir: Folder of the results; None: as the file says.
        systems: Name -> folder or CSV of what other systems generated, beside those of the file.
        preset: Of generation; None: as the file says.
        exclude: Whether what cannot be read is listed and left out.

    Raises:
        ConfigError: If there is no such file, or it cannot be read.
        CheckpointError: If the model is needed for its image size, and cannot be found.
        DataError: If the prepared dataset is needed for its image size, and cannot be found.
    """
    from medcodi.config import read_yaml
    from medcodi.data.dataset import read_info
    from medcodi.model.files import read_index
    from medcodi.model.shipped import demo_checkpoint

    values = read_yaml(config) if config else {}
    if model is not None:
        values["model"] = model
    if out_dir is not None:
        values["out"] = str(out_dir)
    if systems:
        values["systems"] = {**(values.get("systems") or {}), **systems}
    if preset is not None:
        values["preset"] = preset
    if exclude:
        values["exclude_unreadable"] = True
    if data is not None:
        told = {name: value for name, value in (values.get("data") or {}).items() if name not in ("path", "source")}
        values["data"] = {"split": "test", **told, "path": data}
        if "image_size" not in told:
            values["data"]["image_size"] = int(read_info(data)["image_size"])
    elif "data" not in values:
        _, index = read_index(values.get("model") or demo_checkpoint())
        size = index["config"]["image_size"]
        values["data"] = {"split": "test", "image_size": size, "source": "phantom", "num_studies": NUM_STUDIES}
    return values


def named_systems(
    generated: Path | None, system: str | None, systems: Sequence[str], settings: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Systems by name, and the settings without them.

    Behind ``--systems A=here``, a further ``B=there`` is a system too, unless B is a setting.

    Args:
        generated: Of ``--generated``.
        system: Its name; None: that of the folder or file.
        systems: Of ``--systems``: NAME=PATH.
        settings: KEY=VALUE of the command line.

    Raises:
        ConfigError: If a system has no name or path, or one name stands for two.
    """
    from medcodi.evaluation.options import EvaluateConfig

    known = {field.name for field in fields(EvaluateConfig)}  # type: ignore[arg-type]
    kept = [one for one in settings if not systems or one.partition("=")[0].split(".")[0] in known]
    told = [*systems, *(one for one in settings if one not in kept)]
    if generated is not None:
        told.insert(0, f"{system or generated.stem}={generated}")
    elif system is not None:
        raise ConfigError(f"--system {system} names nothing", fix="say where its output lies: --generated DIR")
    found: dict[str, str] = {}
    for one in told:
        name, equals, path = one.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"{one!r} names no system", expected="NAME=PATH", fix="--systems RoentGen=theirs/")
        if name in found:
            raise ConfigError(f"two systems are named {name!r}", fix="give each its own name")
        found[name] = path
    return found, kept
