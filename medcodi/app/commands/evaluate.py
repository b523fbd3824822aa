"""``medcodi evaluate``: judge a model, or what other systems generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from medcodi.app.arguments import Model, Overrides, Preset
from medcodi.app.terminal import app, evaluate_and_print, print_notes, print_results, print_verification, say_loading
from medcodi.errors import ConfigError

NUM_STUDIES = 200  # of the phantom, unless the file or the command line names a number


@app.command()
def evaluate(
    config: Annotated[
        str | None, typer.Option(help="The evaluation: a file, or a recipe (medcodi config list eval).")
    ] = None,
    settings: Overrides = None,
    model: Model = None,
    data: Annotated[str | None, typer.Option(help="Prepared dataset.", show_default="held-out phantoms")] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder of the bundle.", show_default=False)] = None,
    preset: Preset = None,
    generated: Annotated[
        Path | None, typer.Option(help="Judge the output of another system: a folder or a CSV.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="Its name.", show_default="of the folder")] = None,
    systems: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Several systems in one table; repeatable.")
    ] = None,
    exclude_unreadable: Annotated[
        bool, typer.Option("--exclude-unreadable", help="Exclude unreadable files, and list them.")
    ] = False,
    verify: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Compute a bundle's figures again and list the differences.")
    ] = None,
    rescore: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Score a bundle's annotations again, with other settings of scoring."),
    ] = None,
) -> None:
    """Judge a model, or any system's images and reports, in every direction, between a floor and a ceiling.

    The output folder holds the figures, a page, the lists and hashes of the scored files, and the generated files.

    [bold]Examples[/bold]

        medcodi evaluate num_studies=64

        medcodi evaluate --config demo

        medcodi evaluate --model runs/join/model --data data/mine --out results/ num_studies=200

        medcodi evaluate --generated theirs/ --system RoentGen --data data/mine --out results/

        medcodi evaluate --systems RoentGen=theirs/ UniXGen=others.csv --data data/mine --out results/

        medcodi evaluate --verify results/

        medcodi evaluate --rescore results/ bootstrap_samples=5000 min_positives=10
    """
    say_loading("the evaluation")
    from medcodi.config import apply_overrides, from_dict
    from medcodi.evaluation.config import EvaluateConfig

    if verify is not None:
        _verify(verify, data, model)
        return
    if rescore is not None:
        from medcodi.evaluation.recompute import rescore_bundle

        print_results(rescore_bundle(rescore, apply_overrides({}, settings or []), data=data), rescore)
        return
    if data is not None:
        from medcodi.data.dataset import read_info

        read_info(data)  # refused before the networks' libraries are loaded
    named, overrides = named_systems(generated, system, systems or [], settings or [])
    values = evaluation_values(
        config, model=model, data=data, out_dir=out_dir, systems=named, preset=preset, exclude=exclude_unreadable
    )
    options = from_dict(EvaluateConfig, apply_overrides(values, overrides), source=str(config or "evaluate"))
    evaluate_and_print(options)


def _verify(folder: Path, data: str | None, model: str | None) -> None:
    from medcodi.evaluation.recompute import verify_bundle

    check = verify_bundle(folder, data=data, model=model)
    print_notes(check.notes)
    checked = f"{check.num_files} files, {check.num_contents} contents, {check.num_figures} figures"
    print_verification(folder, check.differences, checked)


def evaluation_values(
    config: str | Path | None,
    *,
    model: str | None,
    data: str | None,
    out_dir: Path | None,
    systems: Mapping[str, str] | None = None,
    preset: str | None = None,
    exclude: bool = False,
) -> dict[str, Any]:
    """Values of an evaluation config: those of the file, overridden by the options that are not None.

    ``data`` replaces only the file's path or source: split, number of studies and image size stay, else they are the test
    split at the prepared size. Without data anywhere: held-out phantoms at the model's image size.

    Raises:
        ConfigError: If the file does not exist or is invalid.
        CheckpointError, DataError: If the model or the dataset is needed for its image size, and does not exist.
    """
    from medcodi.config import read_recipe
    from medcodi.data.dataset import read_info
    from medcodi.evaluation.config import EvaluateConfig
    from medcodi.model import demo_checkpoint
    from medcodi.model.index import read_index

    # Options that replace a key of the file.
    values = read_recipe(EvaluateConfig, config) if config else {}
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

    # The data: the option's dataset, else the file's, else held-out phantoms at the model's image size.
    if data is not None:
        section = {name: value for name, value in (values.get("data") or {}).items() if name not in ("path", "source")}
        values["data"] = {"split": "test", **section, "path": data}
        if "image_size" not in section:
            values["data"]["image_size"] = int(read_info(data)["image_size"])
    elif "data" not in values:
        _, index = read_index(values.get("model") or demo_checkpoint())
        size = index["config"]["image_size"]
        values["data"] = {"split": "test", "image_size": size, "source": "phantom", "num_studies": NUM_STUDIES}
        if index["config"].get("record"):
            values["data"]["version"] = 2  # version 1 has no records
    return values


def named_systems(
    generated: Path | None, system: str | None, systems: Sequence[str], settings: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Separate systems from settings: name -> path, and the remaining settings.

    After ``--systems A=here``, a further ``B=there`` is a system too, unless B is a setting.

    Raises:
        ConfigError: If a system has no name or path, or two have the same name.
    """
    from medcodi.evaluation.config import EvaluateConfig

    # A KEY=VALUE whose key is no field of the config names a further system.
    known = {field.name for field in fields(EvaluateConfig)}  # type: ignore[arg-type]
    remaining = [text for text in settings if not systems or text.partition("=")[0].split(".")[0] in known]
    texts = [*systems, *(text for text in settings if text not in remaining)]
    if system is not None and "=" in system:
        raise ConfigError(
            f"--system {system} is no name",
            expected="the name alone of what --generated names",
            fix=f"--systems {system}",
        )
    if generated is not None:
        texts.insert(0, f"{system or generated.stem}={generated}")
    elif system is not None:
        raise ConfigError(f"--system {system} names nothing", fix="name its output: --generated DIR")

    # Every system has a unique name and a path.
    named: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"{text!r} names no system", expected="NAME=PATH", fix="--systems RoentGen=theirs/")
        if name in named:
            raise ConfigError(f"two systems are named {name!r}", fix="give each another name")
        named[name] = path
    return named, remaining
