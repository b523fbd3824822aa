"""Which split a patient belongs to: one patient, one split."""

from __future__ import annotations

from medcodi.errors import DataError


def split_of_patient(patient_id: str, *, seed: int, val: float, test: float) -> str:
    """A split drawn from the patient's identifier alone, so new patients never move old ones.

    Args:
        patient_id: Whose studies go together.
        seed: Another seed, another division.
        val: Share of patients in ``val``.
        test: Share of patients in ``test``.
    """
    from medcodi.randomness import seed_from_keys  # it brings torch: official splits do without

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
            DataError: If the patient's studies stand in two splits.
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
