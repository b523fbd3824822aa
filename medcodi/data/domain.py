"""The domain of training: whether studies are phantoms or real, what they hold, and whose use agreement covers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from medcodi.data.dataset import StudyDataset, read_info, read_study
from medcodi.data.image_files import is_dicom
from medcodi.data.images import ORIGIN, SYNTHETIC
from medcodi.errors import DataError
from medcodi.modality import MODALITIES, in_table_order
from medcodi.study import CHEXPERT_LABELS

if TYPE_CHECKING:
    from medcodi.data.loading import DataConfig

# Sources whose use agreement restricts who may see the data, and what was made from them.
AGREEMENTS = ("mimic", "physionet", "vindr", "brax", "chexpert", "padchest")
PHANTOM, REAL, MIXED, UNKNOWN = "phantom", "real", "mixed", "unknown"  # origins, beside SYNTHETIC
SYNTHESIZED = "synthesize"  # metadata "source" of studies that a model has generated
_KEY = "domain"  # in a model's provenance


# ---- of a model ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Domain:
    """The training data of a model; written by training into the provenance of its index, and no part of its identity."""

    origin: str  # phantom, real, synthetic, mixed or unknown
    sources: tuple[str, ...] = ()  # names of the datasets
    modalities: tuple[str, ...] = ()  # that at least one study held; empty: unknown
    findings: tuple[str, ...] = ()  # CheXpert's names of what at least one study shows; empty: unknown
    agreement: str = ""  # the source whose use agreement covers the studies

    @staticmethod
    def of(provenance: Mapping[str, Any]) -> Domain | None:
        """The domain in a model's provenance; None where an older model has none, or a foreign one another."""
        entry = provenance.get(_KEY)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("origin"), str):
            return None
        # JSON has no tuples.
        lists = {name: tuple(map(str, entry.get(name) or ())) for name in ("sources", "modalities", "findings")}
        return Domain(origin=entry["origin"], agreement=str(entry.get("agreement") or ""), **lists)

    def after(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """The provenance of a model that was trained in this domain after the one that it started from."""
        before = Domain.of(provenance)
        if before is None and provenance.get("training"):
            before = Domain(origin=UNKNOWN)
        joined = self if before is None else self._joined(before)
        return {**provenance, _KEY: asdict(joined)}

    def _joined(self, before: Domain) -> Domain:
        return Domain(
            origin=self.origin if self.origin == before.origin else MIXED,
            sources=tuple(dict.fromkeys([*before.sources, *self.sources])),
            modalities=in_table_order(name for name in [*before.modalities, *self.modalities] if name in MODALITIES),
            findings=tuple(label for label in CHEXPERT_LABELS if label in before.findings + self.findings),
            agreement=self.agreement or before.agreement,
        )


def domain_of_data(config: DataConfig, dataset: StudyDataset) -> Domain:
    """The domain of a dataset: from the description of a prepared folder and its first study, or of the phantom."""
    if config.path is None:
        from medcodi.data.sources.phantom.body import PREVALENCE

        shown = {*PREVALENCE, "Lung Opacity", "No Finding"}
        findings = tuple(label for label in CHEXPERT_LABELS if label in shown)
        return Domain(
            origin=PHANTOM,
            sources=(dataset.name,),
            modalities=tuple(read_study(dataset, 0).contents),
            findings=findings,
        )
    # One study tells what the description of its source does not: a table may hold phantoms, or what a model has generated.
    info, study = read_info(config.path), read_study(dataset, 0)
    source = str(study.metadata.get("source", ""))
    named = f"{study.study_id} {study.patient_id}".split()  # `data sample` names patients so
    is_phantom = source == PHANTOM or any(name.startswith("phantom-") for name in named)
    counts, findings = getattr(dataset, "modality_counts", dict)(), getattr(dataset, "positive_labels", tuple)()
    return Domain(
        origin=PHANTOM if is_phantom else SYNTHETIC if source == SYNTHESIZED else REAL,
        sources=(dataset.name,),
        modalities=tuple(name for name, count in counts.items() if count),
        findings=findings,
        agreement="" if is_phantom else agreement_of(Path(config.path), {**info, "source": info["config"]["source"]}),
    )


def agreement_of(path: Path, *metadata: Any) -> str:
    """Name of the source whose use agreement covers the data, from its metadata or from words in its path; "" without one."""
    marked = next((entry for entry in metadata if isinstance(entry, dict) and entry.get("credentialed")), None)
    if marked is not None:
        return str(marked.get("source", "its source"))
    text = " ".join([*path.absolute().parts[-3:], *(str(entry) for entry in metadata)]).lower()
    return next((name for name in AGREEMENTS if name in text), "")


def attested(
    agreement: str, attested_by: str | None, *, failed: str, statement: str, option: str = "--attest "
) -> dict[str, str] | None:
    """The attestation that what is under a use agreement may be passed on; None where none is needed.

    Raises:
        DataError: If nobody attests; ``failed`` says what is under the agreement, ``option`` how a name is given.
    """
    attested_by = (attested_by or "").strip()
    if agreement and not attested_by:
        raise DataError(
            f"{failed} {agreement.upper()}, which is shared under a use agreement",
            expected="somebody who attests that everyone who will see it is covered by it",
            fix=f"{option}'Name, institution' once that is so; it is recorded",
        )
    return {"source": agreement, "attested_by": attested_by, "statement": statement} if attested_by else None


# ---- of a prompt -----------------------------------------------------------------------------------------------------
def origin_of_image(value: Any) -> str:
    """The origin of an image prompt: ``phantom`` or ``synthetic`` where the file says so, ``real`` for other DICOM, else ``unknown``."""
    if isinstance(value, Image.Image):
        return str(value.info.get(ORIGIN, UNKNOWN))
    if not isinstance(value, str | Path):
        return UNKNOWN
    path = Path(value)
    if is_dicom(path):
        import pydicom

        tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SyntheticData"], force=True)
        return SYNTHETIC if str(tags.get("SyntheticData", "")).upper() == "YES" else REAL
    with Image.open(path) as picture:  # the header alone
        return str(picture.info.get(ORIGIN, UNKNOWN))
