"""``medcodi data prepare``, ``show``, ``cache`` and ``sample``: a dataset from a source, a look at it, its encodings, studies to try with."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from medcodi.app.arguments import Overrides
from medcodi.app.terminal import count_progress, counting_bar, data_app, err, out, show

if TYPE_CHECKING:
    from medcodi.data.preparation.ledger import Overview
    from medcodi.training.caching import EncodedStudies


@data_app.command()
def prepare(
    source: Annotated[
        str | None,
        typer.Option(help="Kind of source: csv, dicom, mimic-cxr, mimic-cxr-jpg, openi, phantom.", show_default=False),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the dataset; written completely or not at all.", show_default=False),
    ] = None,
    settings: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--config", help="Source and settings: a file, or a recipe (medcodi config list data).", show_default=False
        ),
    ] = None,
) -> None:
    """Turn a source of studies into a memory-mapped dataset, with patient-level splits and a ledger.

    The ledger states for every file whether it was included, and why not. If more than a tenth of the studies is bad, the
    command fails.

    [bold]Examples[/bold]

        medcodi data prepare --source csv --out data/mine path=studies.csv image_size=256

        medcodi data prepare --source dicom --out data/ward path=dicom/ max_bad_fraction=0.2

        medcodi data prepare --config chexpert --out data/chexpert
    """
    from medcodi.config import apply_overrides, from_dict, read_recipe
    from medcodi.data.preparation.prepare import PrepareConfig, prepare

    values = read_recipe(PrepareConfig, recipe) if recipe else {}
    values |= {key: str(value) for key, value in {"source": source, "out": out_dir}.items() if value is not None}
    values = apply_overrides(values, settings or [])
    out.print(prepare(from_dict(PrepareConfig, values, source="data prepare")))


@data_app.command("show")
def show_dataset(
    data: Annotated[str, typer.Argument(help="A prepared dataset, folder or URL.")],
    split: Annotated[str | None, typer.Option(help="train, val or test.", show_default="all")] = None,
    num: Annotated[int, typer.Option("--n", min=1, help="Studies of each split, from the first.")] = 8,
    page: Annotated[
        Path | None, typer.Option("--out", help="Write a page as well: films, reports, records, what was left out.")
    ] = None,
) -> None:
    """Look at a prepared dataset: its studies, and the files that the ledger left out, with the reasons.

    [bold]Examples[/bold]

        medcodi data show data/mine

        medcodi data show data/mine --split test --n 24 --out test.html
    """
    from medcodi.data.preparation.ledger import overview, write_overview
    from medcodi.pages.page import check_page

    if page is not None:
        check_page(page)
    seen = overview(data, split=split, num=num)
    _print_overview(seen)
    if page is not None:
        out.print(f"The page: {write_overview(seen, page)}")


@data_app.command()
def cache(
    model: Annotated[str, typer.Option(help="Model folder: its autoencoders and prompt encoders are used.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the caches: each split gets a folder in it.")],
    data: Annotated[
        str | None, typer.Option(help="A prepared dataset, folder or URL.", show_default="see source=phantom")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="train, val or test; repeatable.", show_default="train")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of the encoders: bf16 or fp32; must be that of the runs that read the cache.")
    ] = "bf16",
    batch_size: Annotated[int, typer.Option(help="Studies encoded together.")] = 64,
    num_workers: Annotated[int, typer.Option(help="Processes per rank that load data.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a cache of other weights or data, and damaged shards.")
    ] = False,
    settings: Overrides = None,
) -> None:
    """Encode a dataset once: stages diffuse and join then train without autoencoders and prompt encoders in memory.

    It stores the latents' means and deviations, the prompts' encodings, which modalities a study has, and the null
    prompts, in half precision. An interrupted cache resumes; a complete one is verified, byte by byte. A run with
    cache=FOLDER uses it, and creates it if it does not exist.

    [bold]Examples[/bold]

        medcodi data cache --model runs/align/model --data data/mine --split train --split val --out runs/cache

        torchrun --nproc-per-node 8 -m medcodi data cache --model runs/align/model --data data/mine --out runs/cache

        medcodi data cache --model runs/align/model --out runs/cache source=phantom num_studies=10000
    """
    from medcodi.config import apply_overrides, from_dict
    from medcodi.data.loading import DataConfig
    from medcodi.distributed import join_ranks
    from medcodi.model import MedCoDi
    from medcodi.training.caching import cache_key, make_cache

    ranks = join_ranks()
    try:
        opened = MedCoDi.from_pretrained(model, lazy=True, device=ranks.device)
        values = {"image_size": opened.config.image_size, **({} if data is None else {"path": data})}
        for name in split or ["train"]:
            # One cache per split; a failure leaves the finished ones.
            studies = from_dict(
                DataConfig, apply_overrides({**values, "split": name}, settings or []), source="data cache"
            )
            dataset = studies.build()
            # The key decides whether an existing cache belongs to these weights and data.
            key = cache_key(opened, dataset, split=studies.split, precision=precision)
            # Encode; only the first rank shows a bar.
            with counting_bar(err) as bar:
                bar.disable = not ranks.is_first
                encoded = make_cache(
                    opened,
                    dataset,
                    out_dir / studies.split,
                    key,
                    ranks=ranks,
                    batch_size=batch_size,
                    num_workers=num_workers,
                    overwrite=overwrite,
                    verify=True,
                    on_progress=count_progress(bar, "encoding"),
                )
            if ranks.is_first:
                _print_summary(encoded)
    finally:
        ranks.leave()


@data_app.command()
def sample(
    out_dir: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist.")],
    studies: Annotated[int, typer.Option(help="Number of studies.")] = 32,
    image_size: Annotated[int, typer.Option(help="Pixels a side.")] = 128,
) -> None:
    """Write phantom studies as PNG files and one table: something to try every command with, and a table to copy.

    [bold]Examples[/bold]

        medcodi data sample sample

        medcodi fit sample --out runs/mine
    """
    from medcodi.data.sample import write_sample

    table = write_sample(out_dir, studies, image_size=image_size)
    out.print(f"{studies} studies: {table}, images and reports beside it")


def _print_overview(seen: Overview) -> None:
    from medcodi.modality import MODALITIES
    from medcodi.record import record_text

    # The studies, a row each.
    title = f"{seen.name}: " + ", ".join(f"{count:,} {split}" for split, count in seen.splits.items())
    letters = ", ".join(f"{row.short}: {row.title}" for row in MODALITIES.values() if row.name in seen.modalities)
    table = Table("split", "study", "patient", "has", "report", "record", title=title, caption=letters)
    table.title_justify = table.caption_justify = "left"
    for row in seen.studies:
        study = row.study
        table.add_row(
            row.split,
            study.study_id,
            study.patient_id,
            "".join(MODALITIES[name].short for name in study.contents),
            shorten(study.report or "–", 60, placeholder=" …"),
            record_text(study.record or {}) or "–",
        )
    show(table)
    # What the ledger left out, a row a reason.
    if not seen.left_out:
        return out.print("Left out: nothing.")
    reasons = Table("left out because of", "files", "for one", title_justify="left")
    reasons.columns[1].justify = "right"
    for reason in seen.left_out:
        example = next(iter(reason.examples), None)
        words = "–" if example is None else ": ".join(filter(None, (example.file, example.detail)))
        reasons.add_row(reason.reason, f"{reason.num_files:,}", shorten(words, 90, placeholder=" …"))
    return show(reasons)


def _print_summary(encoded: EncodedStudies) -> None:
    table = Table("modality", "studies", title=str(encoded.folder), title_justify="left")
    table.columns[1].justify = "right"
    for name, count in encoded.present.items():
        table.add_row(name, f"{count:,}")
    show(table)
    out.print(
        f"{len(encoded):,} studies, {encoded.num_bytes / 2**20:,.1f} MiB: train with cache={encoded.folder.parent}"
    )
