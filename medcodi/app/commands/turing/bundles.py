"""``medcodi turing``: a Visual Turing Test, from the blinded bundle to the table of answers."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from medcodi.app.arguments import Device, read_device, refuse_full_folder
from medcodi.app.terminal import err, out, progress_bar, turing_app
from medcodi.errors import DataError


@turing_app.command()
def export(
    study: Annotated[Path, typer.Option(help="The study: a file, or a recipe (medcodi config list turing).")],
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
        str | None, typer.Option(help="Model for autoencoded items, or demo.", show_default="that of --generated")
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

        medcodi turing export --study demo --real phantom --generated demo --out bundle/

        medcodi turing export --study study.yaml --real data/mine --generated runs/join/model --readers 3 --out bundle/
    """
    if out_dir.is_dir():  # perhaps by an export that was killed when all was written
        from medcodi.storage.job_folder import JobFolder
        from medcodi.turing.bundle.contents import EXPORT

        JobFolder.sweep_published(out_dir, EXPORT)
    refuse_full_folder(out_dir)
    from medcodi.generation.pipeline import load
    from medcodi.turing import export_bundle
    from medcodi.turing.design.config import max_cases, read_reader_study
    from medcodi.turing.design.generated_arm import open_generated
    from medcodi.turing.design.real_arm import open_real

    config = read_reader_study(study).with_readers(readers)
    torch_device = read_device(device)
    # Both arms are opened, and so refused, before anything is generated.
    real_arm = open_real(
        real, split=split, num_phantoms=max_cases(config), image_size=config.image_size, seed=config.seed
    )
    generated_arm = open_generated(generated, config.sampling, config.seed, torch_device)
    model = load(autoencoder, torch_device) if autoencoder else None
    # Choose the cases, generate, blind, write.
    with progress_bar(err) as bar:
        task = bar.add_task("choosing cases", total=None)
        done = export_bundle(
            config,
            real_arm,
            generated_arm,
            out_dir,
            autoencoder=model,
            attested_by=attest,
            on_step=lambda what, count, total: bar.update(task, description=what, completed=count, total=total),
        )
    # What was left out, what was written, and the next step.
    for line in done.left_out:
        err.print(f"left out: {line}", markup=False)
    out.print(
        f"{done.folder}: {done.num_items} items for {config.readers} readers, {done.num_images} images each, "
        f"both arms at {done.native_size} pixels a side, shown at {config.image_size}.",
        markup=False,
    )
    out.print(f"Readers get {done.folder / 'readers'}; keep {done.folder / 'custodian'} to yourself.", markup=False)
    out.print(f"Next: medcodi turing lint {done.folder}", markup=False)


@turing_app.command()
def lint(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, or of one reader.")],
    key: Annotated[
        Path | None, typer.Option(help="The custodian's folder.", show_default="BUNDLE/custodian if it exists")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write every test and its result to this JSON file.")] = None,
) -> None:
    """Attack a bundle: does anything but the pictures reveal which items are generated? Exit code 1 if so.

    [bold]Examples[/bold]

        medcodi turing lint bundle/

        medcodi turing lint bundle/readers/reader-01 --key custodian/ --report lint.json
    """
    from medcodi.storage.atomic import write_json
    from medcodi.turing import lint_bundle

    # A whole bundle holds its key; a reader's folder is tested without, unless --key names one.
    own = bundle / "custodian"
    with progress_bar(err) as bar:
        task = bar.add_task("reading", total=None)
        attacked = lint_bundle(
            bundle,
            key or (own if own.is_dir() else None),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    # Every leak with its fix; only leaks decide the exit code.
    if report:
        write_json(report, attacked.to_dict(), error=DataError)
    for leak in attacked.leaks:
        out.print(f"LEAK {leak.probe}: {leak.detail}. Fix: {leak.fix}.", markup=False)
    for attack in attacked.reported:
        out.print(f"separable by a classifier, not a leak: {attack.what}: {attack.auc.words()}", markup=False)
    for note in attacked.notes:
        out.print(f"note: {note}", markup=False)
    out.print(f"{len(attacked.tested)} tests with the key; {len(attacked.leaks)} leaks.", markup=False)
    if not attacked.clean:
        raise typer.Exit(1)


@turing_app.command()
def serve(
    bundle: Annotated[
        Path, typer.Argument(help="Folder with readers/ of a bundle, without custodian/; or one reader's folder.")
    ],
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder for the answers: new, or that of an earlier serving, which resumes.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than this machine reach 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8400,
    url: Annotated[
        str | None,
        typer.Option(
            help="Where readers reach the server through a proxy, for the links.", show_default="host and port"
        ),
    ] = None,
) -> None:
    """Serve the readings over HTTP: a link for each reader, answers stored here as they are given, a page of the progress.

    The answer key must not be on this machine. The results are files as the viewer saves them: OUT/results/*.json.

    [bold]Examples[/bold]

        medcodi turing serve served/ --out answers/

        medcodi turing serve served/ --out answers/ --url https://reading.example.org
    """
    from medcodi.turing import study_server
    from medcodi.turing.serving.answers_folder import PROGRESS, reader_links

    with study_server(bundle, out_dir, host, port) as server:
        answers = server.answers
        for name, link in reader_links(url or server.url, answers.tokens, list(answers.study.trials)).items():
            out.print(f"{'coordinator' if name == PROGRESS else name}: {link}", markup=False)
        if url is None and host not in ("127.0.0.1", "localhost", "::1"):
            err.print("Links and answers travel unencrypted. Put a proxy with TLS before this, and name it by --url.")
        err.print(
            f"Serving; answers are stored in {out_dir}. Stop with Ctrl-C: the same command resumes.", markup=False
        )
        # A service is stopped by either; a shell that starts one in the background has SIGINT ignored.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    out.print(f"Next: medcodi turing import {out_dir / 'results'}/*.json --key custodian --out table/", markup=False)


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
    from medcodi.turing import import_results

    imported = import_results(results, key, out_dir)

    # What came from each reader, then what was not used and why.
    for file in imported.facts["files"]:
        state = "finished" if file["complete"] else "not finished"
        out.print(
            f"{file['reader']}: {file['answers']} of {file['of']} answers, {state} ({file['file']})", markup=False
        )
    for reader in imported.facts["readers_without_file"]:
        out.print(f"{reader}: no file", markup=False)
    for file in imported.facts["superseded"]:
        out.print(f"not used: {file['file']}: {file['why']}", markup=False)
    for answer in imported.facts["excluded"]:
        out.print(f"excluded: {answer['reader']}, trial {answer['trial']}: {answer['why']}", markup=False)
    for doubt in imported.facts["doubtful"]:
        out.print(f"doubtful: {doubt}", markup=False)
    out.print(f"{len(imported.rows)} answers in {imported.folder / 'answers.csv'}", markup=False)
