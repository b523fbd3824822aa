"""``medcodi import-xgem``: convert the published weights to our layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from medcodi.app.terminal import app, counting_bar, err, out, show
from medcodi.errors import CheckpointError, one_of

if TYPE_CHECKING:
    from medcodi.interop.xgem import Imported

Heads = Annotated[int | None, typer.Option(show_default="one for every 64 channels")]


@app.command(name="import-xgem")
def import_xgem(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="MedCoDi-M.pt, a safetensors file, or a folder of shards or parts.")
    ],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write: new, or empty.")],
    tokenizers: Annotated[
        Path | None,
        typer.Option(
            help="Folder of prompts.json (CLIP), report.json (BERT, cased), decoder.json (GPT-2): each the tokenizer.json "
            "of that model. Without them the model reads and writes no text.",
            show_default="none",
        ),
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="A single-part file, whose tensors replace those of FILE; repeatable.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Precision of the stored weights: float32, bfloat16, float16.")
    ] = "float32",
    report: Annotated[
        Path | None,
        typer.Option(help="A copy of OUT/import_report.json: what became of every key.", show_default="none"),
    ] = None,
    allow_half: Annotated[bool, typer.Option("--allow-half", help="Take weights in half precision.")] = False,
    unet_image: Annotated[
        str | None,
        typer.Option(help="The view that older single-part files call unet_image.", show_default="refuse them"),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "medcodi-m-published",
    image_size: Annotated[int, typer.Option(help="Side of the generated images, in pixels.")] = 256,
    norm_groups: Annotated[
        int, typer.Option(help="Groups of the UNets' norms, which the weights do not determine.")
    ] = 32,
    vae_norm_groups: Annotated[int, typer.Option(help="Groups of the image autoencoder's norms.")] = 32,
    num_heads: Annotated[int, typer.Option(help="Attention heads of the UNets.")] = 8,
    text_heads: Heads = None,
    image_heads: Heads = None,
    report_heads: Heads = None,
    decoder_heads: Heads = None,
    max_report_tokens: Annotated[int, typer.Option(help="Maximum length of a generated report.")] = 256,
) -> None:
    """Import the published MedCoDi-M (XGeM) checkpoint, or one of another size in its layout.

    Nothing in FILE is executed, video layers are left out, and every key is accounted for. The model keeps the two
    quirks that the weights were trained with. An interrupted import resumes.

    [bold]Examples[/bold]

        medcodi import-xgem MedCoDi-M.pt models/medcodi-m --tokenizers vocabularies/

        medcodi import-xgem MedCoDi-M.pt models/medcodi-m-bf16 --dtype bfloat16 --report keys.json

        medcodi import-xgem MedCoDi-M.pt models/tuned --also model.model.diffusion_model.unet_lateral.connecters_out.pt
    """
    from medcodi.interop.xgem import DTYPES
    from medcodi.interop.xgem import import_xgem as run
    from medcodi.interop.xgem_layout import LayoutConfig
    from medcodi.storage.atomic import write_bytes
    from medcodi.storage.ownership import refuse_foreign

    if report is not None:
        options: Any = {"what": "an earlier report", "fix": "choose another --report", "error": CheckpointError}
        refuse_foreign(report, lambda path: {"keys", "numbers"} <= json.loads(path.read_bytes()).keys(), **options)
    # Import, one component at a time.
    one_of("dtype", dtype, DTYPES, CheckpointError)
    with counting_bar(err) as bar:
        task = bar.add_task("reading", total=None)

        def on_component(component: str, done: int, total: int, was_there: bool) -> None:
            bar.update(task, description="importing", completed=done, total=total)
            bar.console.print(f"{component}{', already imported' if was_there else ''}", highlight=False)

        imported = run(
            file,
            out_dir,
            also=also or (),
            tokenizers=tokenizers,
            dtype=dtype,
            allow_half=allow_half,
            old_image_unet=unet_image,
            layout=LayoutConfig(
                name=name,
                image_size=image_size,
                num_heads=num_heads,
                norm_groups=norm_groups,
                vae_norm_groups=vae_norm_groups,
                text_heads=text_heads,
                image_heads=image_heads,
                report_heads=report_heads,
                decoder_heads=decoder_heads,
                max_report_tokens=max_report_tokens,
            ),
            on_component=on_component,
        )
    # A copy of the report, and a summary of it.
    if report is not None:
        write_bytes(report, (imported.folder / "import_report.json").read_bytes(), error=CheckpointError)
    _print_import(imported, has_tokenizers=tokenizers is not None)


def _print_import(imported: Imported, *, has_tokenizers: bool) -> None:
    table = Table("keys", "number", "parameters", "why", title=str(imported.folder), title_justify="left")
    for column in table.columns[1:3]:
        column.justify = "right"

    # Status of a key -> every reason given for it.
    reasons: dict[str, set[str]] = {}
    for entry in imported.report["keys"].values():
        reasons.setdefault(entry["status"], set()).add(entry.get("why", ""))
    for status, count in imported.report["numbers"].items():
        why = "; ".join(sorted(reason for reason in reasons.get(status, ()) if reason))
        table.add_row(status, f"{imported.counts[status]:,}", f"{count:,}", why)
    table.add_row("unknown", "0", "0", "")
    show(table)
    out.print(f"Each key: {imported.folder / 'import_report.json'}")
    if not has_tokenizers:
        out.print("No vocabularies were given: the model generates images from images. Fix: --tokenizers.")
