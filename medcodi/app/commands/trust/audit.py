"""``medcodi audit``: does a model disclose the studies that it was trained on? An audit with controls and a gate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from medcodi.app.arguments import Model, Overrides, Preset
from medcodi.app.terminal import app, out, print_notes, print_verification, say_loading, show
from medcodi.errors import ConfigError

FAILED = 4  # exit code if a limit or a control fails, or the audit is inconclusive


@app.command()
def audit(
    config: Annotated[
        str | None, typer.Option(help="The audit: a file, or a recipe (medcodi config list audit).")
    ] = None,
    settings: Overrides = None,
    model: Model = None,
    members: Annotated[
        str | None, typer.Option(help="Prepared dataset; its training split was trained on.", show_default=False)
    ] = None,
    non_members: Annotated[
        str | None, typer.Option(help="Prepared dataset; its test split is of other patients.", show_default=False)
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder of the bundle.", show_default=False)] = None,
    reference: Annotated[
        str | None, typer.Option(help="Earlier checkpoint, or a model of other studies.", show_default=False)
    ] = None,
    preset: Preset = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Compute a bundle's figures again and list the differences.")
    ] = None,
) -> None:
    """Audit a model for memorisation, membership inference, extraction, re-identification and inferred attributes.

    Members are studies that the model was trained on, non-members studies of other patients. Limits are in the file; the exit
    code is 4 unless each is shown to hold. An interrupted audit resumes with the same command.

    [bold]Examples[/bold]

        medcodi audit --config demo

        medcodi audit --model runs/join/model --members data/mine --non-members data/mine --out audit/

        medcodi audit --config small --model runs/join/model limits.membership_auroc=0.6

        medcodi audit --verify audit/
    """
    say_loading("the audit")
    if verify is not None:
        _verify(verify)
        return
    from medcodi.config import apply_overrides, from_dict
    from medcodi.trust.privacy.config import AuditConfig

    values = audit_values(config, model, members, non_members, out_dir, reference, preset)
    options = from_dict(AuditConfig, apply_overrides(values, settings or []), source=str(config or "audit"))
    from medcodi.trust.privacy.job import audit as run

    results = run(options)
    if not int(os.environ.get("RANK", "0")):  # only the first rank prints
        _print_results(results, Path(options.out))
    if results["verdict"]["outcome"] != "passes":
        raise typer.Exit(FAILED)


def audit_values(
    config: str | None,
    model: str | None,
    members: str | None,
    non_members: str | None,
    out_dir: Path | None,
    reference: str | None,
    preset: str | None,
) -> dict[str, Any]:
    """Values of an audit config: those of the file, overridden by the options that are given.

    Raises:
        ConfigError: If members or non-members are named nowhere.
        DataError: If a dataset does not exist.
    """
    from medcodi.config import read_recipe
    from medcodi.data.dataset import read_info
    from medcodi.trust.privacy.config import AuditConfig

    values = read_recipe(AuditConfig, config) if config else {}
    options = {"model": model, "reference": reference, "preset": preset, "out": out_dir and str(out_dir)}
    values |= {name: value for name, value in options.items() if value is not None}
    # A dataset replaces only the file's path or source.
    for name, path, split in (("members", members, "train"), ("non_members", non_members, "test")):
        if path is not None:
            read_info(path)  # refused before the networks' libraries are loaded
            section = {key: value for key, value in (values.get(name) or {}).items() if key not in ("path", "source")}
            values[name] = {"split": split, **section, "path": path}
        elif name not in values:
            raise ConfigError(
                f"no {name.replace('_', '-')} are named",
                expected="studies that the model was trained on, and studies of other patients",
                fix=f"--{name.replace('_', '-')} DATA, or a file with --config (medcodi config show audit/demo)",
            )
    return values


def _print_results(results: dict[str, Any], folder: Path) -> None:
    table = Table("limit", "allowed", "value", "outcome", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for entry in results["limits"]:
        value = entry.get("value")
        spread = f" [{entry['low']:.3f}, {entry['high']:.3f}]" if "low" in entry else ""
        shown = "–" if value is None else f"{value:.3g}" if not spread else f"{value:.3f}{spread}"
        table.add_row(entry["title"], f"{entry['allowed']:g}", shown, entry["outcome"])
    show(table)
    out.print(f"Verdict: {results['verdict']['outcome']}")
    for line in results["verdict"]["lines"]:
        out.print(line)
    print_notes(results["alarms"])
    out.print(f"The page: {folder / 'page.html'}")


def _verify(folder: Path) -> None:
    from medcodi.trust.privacy.results import verify_audit

    check = verify_audit(folder)
    print_verification(folder, check.differences, f"{check.num_files} files, {check.num_figures} figures")
