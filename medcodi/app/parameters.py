"""How many parameters a model has, part by part, without allocating one."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table
from tokenizers import Tokenizer, models

from medcodi.config import load
from medcodi.model import MedCoDi, ModelConfig
from medcodi.model_files import read_index
from medcodi.networks.tokenizer import SPECIAL_TOKENS, ReportTokenizer


def count_parameters(source: str | Path) -> dict[str, int]:
    """Parameters of each part of a model.

    Args:
        source: A YAML file of a :class:`ModelConfig`, or a model folder.

    Returns:
        Part -> number of its parameters, in the order of assembly.

    Raises:
        ConfigError: If the YAML file is not a model configuration.
        CheckpointError: If the folder holds no model.
    """
    if Path(source).suffix not in (".yaml", ".yml"):
        _, index = read_index(source)
        return {name: entry["num_parameters"] for name, entry in index["components"].items()}
    config = load(ModelConfig, source)
    with torch.device("meta"):
        model = MedCoDi(config, _blank_tokenizer(config.vocab_size))
    return {
        name: sum(parameter.numel() for parameter in module.parameters()) for name, module in model.components().items()
    }


def parameter_table(source: str | Path) -> Table:
    """The counts of :func:`count_parameters`, and their sum."""
    counts = count_parameters(source)
    table = Table("part", "parameters", title=str(source), title_justify="left")
    table.columns[1].justify = "right"
    for part, count in counts.items():
        table.add_row(part, f"{count:,}")
    table.add_section()
    table.add_row("all", f"{sum(counts.values()):,}")
    return table


def _blank_tokenizer(vocab_size: int) -> ReportTokenizer:
    """A tokenizer that knows nothing but its size: sizes are all that counting needs."""
    words = [*SPECIAL_TOKENS, *(str(number) for number in range(vocab_size - len(SPECIAL_TOKENS)))]
    return ReportTokenizer(
        Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    )
