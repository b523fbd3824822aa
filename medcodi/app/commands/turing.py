"""``medcodi turing``: a Visual Turing Test, from the blinded bundle to the table of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medcodi.app.progress import progress_bar
from medcodi.app.requests import read_device, refuse_full_folder
from medcodi.app.root import Device, app, err, out

turing_app = typer.Typer(
    no_args_is_help=True, help="Let radiologists judge: real or generated, blinded, with statistics."
)
app.add_typer(turing_app, name="turing")


@turing_app.command()
def export(
    study: Annotated[Path, typer.Option(help="The study file; ready ones lie in configs/turing/.")],
    real: Annotated[
        str, typer.Option(help="The real arm: a prepared folder, a CSV table, a folder of DICOM files, or phantom.")
    ],
    generated: Annotated[
        str, typer.Option(help="The generated arm: a folder of generated studies, a model folder, or demo.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the bundle, new or empty.")],
    readers: Annotated[int | None, typer.Option(help="How many readers.", show_default="the study's")] = None,
    split: Annotated[str, typer.Option(help="Split of a prepared folder.")] = "test",
    autoencoder: Annotated[
        str | None,
        typer.Option(help="Model for autoencoded items, or demo.", show_default="that of --generated"),
    ] = None,
    attest: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who attests that all readers are covered by the use agreement of the real data; recorded in the bundle.",
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Write a blinded bundle: a folder and a zip for each reader, and the answer key for the custodian.

    [bold]Examples[/bold]

        medcodi turing export --study configs/turing/demo.yaml --real phantom --generated demo --out bundle/

        medcodi turing export --study study.yaml --real data/mine --generated runs/join/model --readers 3 --out bundle/
    """
    refuse_full_folder(out_dir)
    from medcodi.generation.pipeline import load
    from medcodi.turing.bundle.export import export_bundle
    from medcodi.turing.design.config import max_cases, read_reader_study
    from medcodi.turing.design.generated_arm import open_generated
    from medcodi.turing.design.real_arm import open_real

    chosen = read_reader_study(study).with_readers(readers)
    where = read_device(device)
    real_arm = open_real(
        real, split=split, num_phantoms=max_cases(chosen), image_size=chosen.image_size, seed=chosen.seed
    )
    generated_arm = open_generated(generated, chosen.sampling, chosen.seed, where)
    model = load(None if autoencoder == "demo" else autoencoder, where) if autoencoder else None
    with progress_bar(err) as bar:
        task = bar.add_task("choosing cases", total=None)
        done = export_bundle(
            chosen,
            real_arm,
            generated_arm,
            out_dir,
            autoencoder=model,
            attested_by=attest,
            on_step=lambda what, count, total: bar.update(task, description=what, completed=count, total=total),
        )
    for line in done.left_out:
        err.print(f"left out: {line}", markup=False)
    out.print(
        f"{done.folder}: {done.num_items} items for {chosen.readers} readers, {done.num_images} images each, "
        f"both arms at {done.native_size} pixels a side, shown at {chosen.image_size}.",
        markup=False,
    )
    out.print(f"Readers get {done.folder / 'readers'}; keep {done.folder / 'custodian'} to yourself.", markup=False)
    out.print(f"Next: medcodi turing lint {done.folder}", markup=False)


@turing_app.command()
def lint(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, or of one reader.")],
    key: Annotated[
        Path | None, typer.Option(help="The custodian's folder.", show_default="BUNDLE/custodian where it is there")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write all that was tested into this JSON file.")] = None,
) -> None:
    """Attack a bundle: does anything but the pictures tell real from generated? Leaves with 1 if so.

    [bold]Examples[/bold]

        medcodi turing lint bundle/

        medcodi turing lint bundle/readers/reader-01 --key custodian/ --report lint.json
    """
    from medcodi.turing.lint.attack import lint_bundle

    own = bundle / "custodian"
    with progress_bar(err) as bar:
        task = bar.add_task("reading", total=None)
        found = lint_bundle(
            bundle,
            key or (own if own.is_dir() else None),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if report:
        report.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    for leak in found.leaks:
        out.print(f"LEAK {leak.probe}: {leak.detail}. Fix: {leak.fix}.", markup=False)
    for one in found.reported:
        out.print(f"seen by a classifier, reported only: {one.what}: {one.auc.words()}", markup=False)
    for note in found.notes:
        out.print(f"note: {note}", markup=False)
    out.print(f"{len(found.tested)} things tested with the key; {len(found.leaks)} leaks.", markup=False)
    if not found.clean:
        raise typer.Exit(1)


@turing_app.command("import")
def import_answers(
    results: Annotated[list[Path], typer.Argument(help="Readers' files, as they downloaded them.")],
    key: Annotated[Path, typer.Option(help="The custodian's folder.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for answers.csv and import.json, new or empty.")],
) -> None:
    """Check readers' files against the key and write one tidy table of answers.

    [bold]Examples[/bold]

        medcodi turing import results/*.json --key bundle/custodian --out table/
    """
    refuse_full_folder(out_dir)
    from medcodi.turing.answers.import_results import import_results

    done = import_results(results, key, out_dir)
    for one in done.facts["files"]:
        state = "finished" if one["complete"] else "not finished"
        out.print(f"{one['reader']}: {one['answers']} of {one['of']} answers, {state} ({one['file']})", markup=False)
    for reader in done.facts["readers_without_file"]:
        out.print(f"{reader}: no file", markup=False)
    for one in done.facts["superseded"]:
        out.print(f"not used: {one['file']}: {one['why']}", markup=False)
    for one in done.facts["excluded"]:
        out.print(f"left out: {one['reader']}, trial {one['trial']}: {one['why']}", markup=False)
    for doubt in done.facts["doubtful"]:
        out.print(f"doubtful: {doubt}", markup=False)
    out.print(f"{len(done.rows)} answers in {done.folder / 'answers.csv'}", markup=False)
