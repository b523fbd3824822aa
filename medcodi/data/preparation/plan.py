"""The plan of a preparation: each patient's split, and the shards that are written, as functions of the source alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medcodi.data.sources.record import Record
from medcodi.errors import DataError

MAX_SHARDS = 256  # of a dataset: each stays open while it is mapped, and a process may open about a thousand
MIN_STUDIES = 32


# ---- splits ----------------------------------------------------------------------------------------------------------
def split_of_patient(patient_id: str, *, seed: int, val: float, test: float) -> str:
    """A split drawn from the patient's identifier alone, so new patients never move old ones; shares ``val`` and ``test``."""
    from medcodi.randomness import seed_from_keys  # it imports torch: official splits do without

    u = seed_from_keys("split", seed, patient_id) / 2**63
    return "test" if u < test else "val" if u < test + val else "train"


class PatientSplits:
    """Remembers every patient's split and refuses a second one."""

    def __init__(self, *, seed: int, val: float, test: float) -> None:
        self._seed, self._val, self._test = seed, val, test
        self._known: dict[str, str] = {}

    def place(self, patient_id: str, official: str | None) -> str:
        """The split of a study: the official one where there is one, else the patient's own.

        Raises:
            DataError: If the patient's studies are in two splits.
        """
        split = (
            official
            or self._known.get(patient_id)
            or split_of_patient(patient_id, seed=self._seed, val=self._val, test=self._test)
        )
        known = self._known.setdefault(patient_id, split)
        if known != split:
            raise DataError(
                f"patient {patient_id!r} is in two splits, {known!r} and {split!r}",
                expected="all studies of a patient in one split",
                fix="correct the split, or leave it out for splits of our own "
                "(csv: options.columns.split=null; mimic-cxr: options.official_split=false)",
            )
        return split


# ---- shards ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Shard:
    """Work for one process at a time."""

    split: str  # of all its studies
    index: int  # within its split
    places: tuple[int, ...]  # of its studies in the source
    records: tuple[Record, ...]  # the studies to be read

    @property
    def name(self) -> str:
        """``train-00003``."""
        return f"{self.split}-{self.index:05d}"


def plan_shards(records: Sequence[Record], splits: Sequence[str]) -> list[Shard]:
    """Cut a source into shards: by split, in the source's order, of a size that depends on the number of studies only."""
    size = max(MIN_STUDIES, -(-len(records) // MAX_SHARDS))
    shards = []
    for split in dict.fromkeys(splits):
        places = [place for place, name in enumerate(splits) if name == split]
        for start in range(0, len(places), size):
            chosen = tuple(places[start : start + size])
            of_shard = tuple(records[place] for place in chosen)
            shards.append(Shard(split=split, index=start // size, places=chosen, records=of_shard))
    return shards
