"""The ledger of a prepared dataset: every file that was there, in or out, and why."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file (or text) of the source."""

    file: str
    study_id: str
    patient_id: str
    modality: str
    split: str  # empty where it is left out
    reason: str = ""  # empty where it is kept
    detail: str = ""


@dataclass
class Ledger:
    """What went in, what stayed out.

    Attributes:
        entries: A row a file.
        num_studies: Studies of the source.
        left_out: Studies left out.
    """

    entries: list[Entry] = field(default_factory=list)
    num_studies: int = 0
    left_out: int = 0

    @property
    def num_kept(self) -> int:
        """Studies in the dataset."""
        return self.num_studies - self.left_out

    def counts(self) -> dict[str, Any]:
        """Studies in and out; studies by split; kept files by modality; files left out by reason."""
        kept = [entry for entry in self.entries if not entry.reason]
        studies = {entry.study_id: entry.split for entry in kept}
        return {
            "studies": {"in the source": self.num_studies, "kept": self.num_kept, "left out": self.left_out},
            "split": dict(Counter(studies.values())),
            "modality": dict(Counter(entry.modality for entry in kept)),
            "reason": dict(Counter(entry.reason for entry in self.entries if entry.reason).most_common()),
        }

    def write(self, folder: Path) -> None:
        """Write ``ledger.csv`` (a row a file) and ``ledger.json`` (the counts)."""
        with (folder / "ledger.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(Entry.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(entry) for entry in self.entries)
        (folder / "ledger.json").write_text(json.dumps(self.counts(), indent=2) + "\n", encoding="utf-8")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title="Ledger", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for group, values in self.counts().items():
            table.add_section()
            for name, count in values.items():
                table.add_row(f"{group}: {name}" if group != "studies" else f"studies {name}", f"{count:,}")
        yield table
