"""The folder of a synthesis: whole studies with their provenance, the rows that failed, and the table of results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcodi.data.image_files import read_image
from medcodi.data.tables import read_rows, spreadsheet_row, spreadsheet_text, text_of_cell
from medcodi.errors import DataError
from medcodi.generation.bulk.manifest import RESULT_COLUMNS, BadRow
from medcodi.generation.bulk.plan import StudyShard
from medcodi.metrics.labeler import label_report, labels_from_findings
from medcodi.modality import MODALITIES, names
from medcodi.model.generation_config import RENAMED, with_new_names
from medcodi.storage import atomic
from medcodi.storage.checked_json import foreign, parse_json
from medcodi.storage.job_folder import JobFolder, JobKind, damage
from medcodi.storage.names import plain_name
from medcodi.study import CHEXPERT_LABELS, Content

RESULTS, FAILED, DELIVERY = "results.csv", "failed.csv", "delivery.json"
_AGAIN = "remove the folder of the study, and run again: it is generated anew, with the same bytes"


def _upgrade(identity: dict[str, Any]) -> dict[str, Any]:
    """Version 0.1 called a setting by its old name, and generated all targets jointly."""
    settings = identity.get("settings", {})
    if not settings.keys() & RENAMED.keys():
        return identity
    return {**identity, "settings": {"order": "joint", **with_new_names(settings)}}


SYNTHESIS = JobKind(
    name="a synthesis",
    index_file="run.json",
    identity_key="",
    record_file="{shard}/result.json",
    upgrade=_upgrade,
    exclusive=False,  # ranks may be jobs of an array, which do not talk to each other
    error=DataError,
    fix="choose another --out",
    resume="run the same command again: it resumes",
)


class SynthesisFolder:
    """The output folder of a synthesis.

    ``run.json`` (the identity), ``studies/00000/<study>/`` (files and ``result.json``; it appears in one piece when it is
    finished), ``failures/`` (the rows that each rank could not carry out), ``results.csv`` and ``failed.csv`` (written at the
    end, in the order of the manifest). Ranks share nothing else.
    """

    def __init__(self, out: Path, shard_size: int, identity: Mapping[str, Any]) -> None:
        self.out, self.shard_size = out, shard_size
        self._job = JobFolder(out, SYNTHESIS, dict(identity))

    def open(self) -> None:
        """Begin a synthesis, or resume one of the same identity.

        Raises:
            DataError: If the folder holds something else, a synthesis of another identity, or cannot be written.
        """
        with self._job.opened():
            pass

    def _name(self, shard: StudyShard) -> str:
        return f"studies/{shard.index // self.shard_size:05d}/{shard.study_id}"

    def _record(self, shard: StudyShard) -> Path:
        return self._job.record_path(self._name(shard))

    def has(self, shard: StudyShard) -> bool:
        """Whether a study is finished: a folder appears in one piece, so being there is being whole."""
        return self._record(shard).is_file()

    def write(
        self,
        shard: StudyShard,
        write_files: Callable[[Path], Mapping[str, Path]],
        provenance: Mapping[str, Any],
        texts: Mapping[str, str],
        prompts: Mapping[str, str],
    ) -> None:
        """Write a study, whole or not at all.

        ``write_files`` writes its files into a folder and returns target -> file; ``texts`` go into the table of results too, and
        ``prompts``: texts, and paths of images as the manifest gives them, with the labels that their texts name.
        """
        findings = [finding for name in names("text") if name in prompts for finding in label_report(prompts[name])]
        labels = labels_from_findings(findings) if set(names("text")) & set(prompts) else {}

        def fill(staging: Path) -> dict[str, Any]:
            files = write_files(staging)
            return {
                "study_id": shard.study_id,
                "id": shard.row.id,
                "row": shard.row.number,
                "sample": shard.sample,
                "seed": shard.seed,
                "files": {
                    name: {"file": file.name, "sha256": atomic.sha256_file(file)} for name, file in files.items()
                },
                "texts": dict(texts),
                "prompts": dict(prompts),
                "labels": labels,
                "kept": dict(shard.row.copied),  # the key of results since version 0.1
                "provenance": provenance,
            }

        self._job.write(self._name(shard), fill)

    def write_failures(self, rank: int, world_size: int, failures: Iterable[BadRow]) -> None:
        """Write the rows that this rank could not carry out."""
        rows = [{"number": bad.number, "id": bad.id, "message": bad.message} for bad in failures]
        self._job.write_json(self.out / "failures" / f"rank-{rank:05d}-of-{world_size:05d}.json", rows, indent=1)

    def failures(self) -> list[BadRow]:
        """The rows that ranks of this run and of earlier ones could not carry out."""
        failures = {}
        for file in sorted((self.out / "failures").glob("rank-*.json")):
            with foreign(
                str(file), expected="rows that failed, as a synthesis writes them", fix="remove it, and run again"
            ):
                for row in json.loads(file.read_text(encoding="utf-8")):
                    failures[int(row["number"])] = BadRow(**row)
        return [failures[number] for number in sorted(failures)]

    def collect(
        self, shards: Sequence[StudyShard], bad: Sequence[BadRow], *, partly: bool = False
    ) -> tuple[int, int, int]:
        """Write ``results.csv`` and ``failed.csv`` once every study is finished or known to fail.

        Args:
            shards: All studies, in the order of the manifest.
            bad: Rows of the manifest that could not be read.
            partly: Write the tables even if studies are still to be generated.

        Returns:
            Numbers of studies finished, of rows failed, and of studies still to be generated.
        """
        while True:
            # Sort the studies into finished, failed and pending ones.
            done = [shard for shard in shards if self.has(shard)]
            finished = set(done)
            missing = [shard for shard in shards if shard not in finished]
            missing_rows = {shard.row.number for shard in missing}
            failed = {row.number: row for row in self.failures() if row.number in missing_rows}
            failed.update({row.number: row for row in bad})
            pending = sum(shard.row.number not in failed for shard in missing)
            if pending and not partly:
                break
            copied = tuple(shards[0].row.copied) if shards else ()  # every row has the same
            self._tables(done, [failed[number] for number in sorted(failed)], copied)
            # Another rank may have made a row that had failed, and written its table meanwhile: ours is older then.
            if pending or not any(self.has(shard) for shard in missing):
                break
        if not pending:  # no study is being written any more: what is half written is of killed runs
            for half in (*self.out.glob(".*.partial/"), self.out / ".staging"):  # the last: of version 0.1
                # Another rank may be writing the tables: the next write of a table sweeps what was left of it.
                if half.is_dir() and not half.name.startswith((f".{RESULTS}.", f".{FAILED}.")):
                    atomic.remove(half)
        return len(done), len(failed), pending

    def _tables(self, done: Sequence[StudyShard], failed: Sequence[BadRow], copied: Sequence[str]) -> None:
        labels = [label for label in CHEXPERT_LABELS if label not in copied]  # a manifest may have its own
        self._table(RESULTS, [*RESULT_COLUMNS, *labels, *copied], (self._result(shard) for shard in done))
        if failed:
            rows = ({"row": row.number, "id": row.id, "reason": row.message} for row in failed)
            self._table(FAILED, ["row", "id", "reason"], rows)
        else:
            (self.out / FAILED).unlink(missing_ok=True)

    def _result(self, shard: StudyShard) -> dict[str, Any]:
        """A study's row in the table of results."""
        path = self._record(shard)
        record = json.loads(path.read_text(encoding="utf-8"))
        provenance = record["provenance"]
        row = {
            **{key: record[key] for key in ("study_id", "id", "row", "sample", "seed")},
            "direction": provenance["direction"],
            "model": provenance["model"]["name"],
            "model_sha256": provenance["model"]["sha256"],
            "settings": json.dumps(provenance["settings"]),
            **record.get("labels", {}),  # results of earlier versions have neither labels nor prompts
            **record["kept"],
        }
        for name, file in record["files"].items():
            row[name] = (path.parent / file["file"]).relative_to(self.out).as_posix()
            row[f"{name}_sha256"] = file["sha256"]
        row.update({f"{name}_text": text for name, text in record["texts"].items()})
        row.update({f"{name}_prompt": prompt for name, prompt in record.get("prompts", {}).items()})
        for name, prompt in provenance["prompts"].items():
            row[f"{name}_prompt_sha256"] = prompt["sha256"]
            if cut := prompt.get("truncated"):
                row[f"{name}_prompt_truncated"] = f"{cut['read_tokens']} of {cut['tokens']} tokens read"
        return row

    def _table(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writerow({column: spreadsheet_text(column) for column in columns})
        writer.writerows(map(spreadsheet_row, rows))
        atomic.write_text(self.out / name, text.getvalue(), error=SYNTHESIS.error, then=SYNTHESIS.resume)


def finished_studies(out: Path) -> Iterator[tuple[dict[str, Content], dict[str, Any]]]:
    """Contents and provenance of every study that the table of results lists, in its order; one is in memory at a time.

    Raises:
        DataError: If there is no table, or a file is missing or has changed.
    """
    for row in read_rows(out / RESULTS):
        cells = {name: text_of_cell(row.cells.get(name, "")) for name in MODALITIES}
        place = out / Path(next(filter(None, cells.values()))).parent / "result.json"
        if not place.is_file():
            raise DataError(f"{place} is missing", expected="the studies that the table names", fix=_AGAIN)
        with foreign(str(place), expected="a study as it was written", fix=_AGAIN):
            record = parse_json(place.read_bytes(), str(place))
            contents = {}
            for name, file in record["files"].items():
                path = place.parent / plain_name(file["file"], str(place))
                if problem := damage(path, file):
                    raise DataError(f"{path} is damaged: {problem}", fix=_AGAIN)
                contents[name] = _content(name, path, record["texts"])
            provenance = dict(record["provenance"])
        yield contents, provenance


def _content(name: str, path: Path, texts: Mapping[str, str]) -> Content:
    """One content: an image or record of its file, a text as the model wrote it."""
    kind = MODALITIES[name].kind
    if kind == "image":
        return read_image(path, modality=name, allow_constant=True)
    return texts[name] if kind == "text" else json.loads(path.read_text(encoding="utf-8"))
