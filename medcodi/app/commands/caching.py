"""``medcodi data cache``: what the frozen networks make of a dataset, stored once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from medcodi.app.progress import counting_bar
from medcodi.app.root import Overrides, data_app, err, out

if TYPE_CHECKING:
    from medcodi.distributed import Ranks
    from medcodi.model import MedCoDi
    from medcodi.training.caching import EncodedStudies


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
        str, typer.Option(help="Of the encoders: bf16 or fp32; the one of the runs that will read the cache.")
    ] = "bf16",
    batch_size: Annotated[int, typer.Option(help="Studies encoded at a time.")] = 64,
    num_workers: Annotated[int, typer.Option(help="Processes of each rank that read ahead.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a cache of other weights or data, and damaged parts.")
    ] = False,
    settings: Overrides = None,
) -> None:
    """Encode a dataset once: stages diffuse and join then train without autoencoders and prompt encoders in memory.

    Kept are the latents' means and deviations, the prompts' encodings, which modalities a study has, and the null
    prompts, in half precision. A cache that was stopped goes on where it was; one that is whole is checked, byte by byte. A
    run with cache=FOLDER finds it; without one it makes its own at the first start.

    [bold]Examples[/bold]

        medcodi data cache --model runs/align/model --data data/mine --split train --split val --out runs/cache

        torchrun --nproc-per-node 8 -m medcodi.app.cli data cache --model runs/align/model --data data/mine --out runs/cache

        medcodi data cache --model runs/align/model --out runs/cache source=phantom num_studies=10000
    """
    from medcodi.distributed import join_ranks
    from medcodi.model import MedCoDi

    processes = join_ranks()
    try:
        opened = MedCoDi.from_pretrained(model, lazy=True, device=processes.device)
        values = {"image_size": opened.config.image_size, **({} if data is None else {"path": data})}
        for name in split or ["train"]:
            made = _make(
                opened,
                {**values, "split": name},
                settings or [],
                out_dir,
                precision,
                processes,
                batch_size=batch_size,
                num_workers=num_workers,
                overwrite=overwrite,
            )
            if processes.is_first:
                _print(made)
    finally:
        processes.leave()


def _make(
    model: MedCoDi,
    values: dict[str, Any],
    settings: list[str],
    out_dir: Path,
    precision: str,
    processes: Ranks,
    **options: Any,
) -> EncodedStudies:
    from medcodi.config import apply_overrides, from_dict
    from medcodi.data.loading import DataConfig
    from medcodi.training.caching import cache_key, make_cache

    data = from_dict(DataConfig, apply_overrides(values, settings), source="data cache")
    dataset = data.build()
    key = cache_key(model, dataset, split=data.split, precision=precision)
    with counting_bar(err) as bar:
        bar.disable = not processes.is_first
        task = bar.add_task("looking", total=None)
        started: list[int] = []

        def on_progress(done: int, total: int) -> None:
            if not started:  # what was there already says nothing about the rate
                started.append(done)
                bar.reset(task, description="encoding", completed=done, total=total)
            bar.update(task, completed=done, total=total)

        return make_cache(
            model,
            dataset,
            out_dir / data.split,
            key,
            processes=processes,
            verify=True,
            on_progress=on_progress,
            **options,
        )


def _print(made: EncodedStudies) -> None:
    table = Table("modality", "studies", title=str(made.folder), title_justify="left")
    table.columns[1].justify = "right"
    for name, count in made.present.items():
        table.add_row(name, f"{count:,}")
    out.print(table)
    out.print(f"{len(made):,} studies, {made.num_bytes / 2**20:,.1f} MiB: train with cache={made.folder.parent}")
