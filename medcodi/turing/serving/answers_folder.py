"""The folder of a served study: one results file a reader, as the viewer saves it, and the tokens of the links.

The answer key is never there: a machine that readers reach does not hold what they must not know.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from medcodi.errors import DataError
from medcodi.storage.atomic import write_bytes
from medcodi.storage.checked_json import foreign
from medcodi.storage.job_folder import JobFolder, JobKind
from medcodi.storage.names import plain_name
from medcodi.turing.answers.results import ResultFile, StudyFacts, check_result, read_result, read_sessions
from medcodi.turing.bundle.files import VIEWER_SUFFIXES, ReaderBundle, viewer_files
from medcodi.turing.bundle.key import CUSTODIAN, KEY_FILE, read_key

SERVING = JobKind(
    name="the answers of a served reader study",
    index_file="serving.json",
    index_header={"format": 1},
    error=DataError,
)
RESULTS, EARLIER = "results", "earlier"  # folders of the newest answers, and of those that fewer answers replaced
PROGRESS = "progress"  # the coordinator's place among the tokens
_IDS = ("bundle_id", "key_sha256", "study_sha256")
_PAGES = ("welcome_served", "end_served")  # texts of a study that may be served


class ChangedElsewhereError(DataError):
    """Another tab or computer has stored answers since this one read them."""


class NotStoredError(DataError):
    """The disk did not take the answers."""


def public_facts(bundle: ReaderBundle) -> StudyFacts:
    """The facts of a study in the readers' folders of its bundle.

    Raises:
        DataError: If they belong to several studies, or a folder is not named after its reader.
    """
    where, expected = str(bundle.path), "readers' folders of one bundle, as medcodi turing export writes them"
    with foreign(where, expected=expected, fix="copy the folders again"):
        ids = {tuple(str(reader.study[name]) for name in _IDS) for reader in bundle.readers}
        trials = {
            reader.study["reader"]: {
                trial["trial"]: {name: trial[name] for name in ("position", "task", "practice")}
                for trial in reader.study["trials"]
            }
            for reader in bundle.readers
        }
    if len(ids) != 1 or list(trials) != [reader.name for reader in bundle.readers]:
        raise DataError(
            f"{where} holds folders of {len(ids)} studies, for {', '.join(map(str, trials))}",
            expected=expected,
            fix="copy the folders of one bundle, under their own names",
        )
    bundle_id, key_sha256, study_sha256 = next(iter(ids))
    return StudyFacts(plain_name(bundle_id, where), key_sha256, study_sha256, trials)


@dataclass(frozen=True)
class ReaderProgress:
    """How far a reader is."""

    reader: str
    num_trials: int
    answered: int = 0  # trials with a whole answer
    sessions: int = 0  # 0: has not begun
    minutes: float = 0.0  # with an item on the screen
    last: datetime | None = None  # end of the last session
    display_check: bool | None = None  # whether it was passed; None: not reached

    @property
    def state(self) -> str:
        """``not begun``, ``reading`` or ``finished``."""
        if not self.sessions:
            return "not begun"
        return "finished" if self.answered == self.num_trials else "reading"


class AnswersFolder:
    """The newest answers of every reader. Threads may store at the same time."""

    def __init__(self, job: JobFolder, study: StudyFacts, tokens: Mapping[str, str]) -> None:
        """Read the answers that are there.

        Raises:
            DataError: If a file is damaged.
        """
        self.root, self.study = job.root, study
        self.tokens = dict(tokens)  # reader, or PROGRESS -> the secret part of the link
        self._lock = threading.Lock()
        self._results = {reader: self._read(reader) for reader in study.trials if self._path(reader).exists()}

    def _read(self, reader: str) -> ResultFile:
        try:
            return read_result(self._path(reader), self.study)
        except DataError as error:
            raise DataError(
                f"{self._path(reader)} is damaged: {error.failed}",
                expected="answers as they were stored",
                fix="restore a copy, or move it away: the reader's browser still has its answers and sends them again",
            ) from None

    def _path(self, reader: str, folder: str = RESULTS) -> Path:
        return self.root / folder / f"{self.study.bundle_id}-{reader}.json"

    def newest(self, reader: str) -> bytes | None:
        """The results file of a reader; None before the first answer."""
        with self._lock:
            return self._path(reader).read_bytes() if reader in self._results else None

    def store(self, reader: str, data: bytes, base: str) -> ResultFile:
        """Store a results file, flushed to the disk before this returns.

        Args:
            reader: Whose link it came by.
            data: The file, as the viewer saves it.
            base: Checksum of the version that the page builds on; "": none.

        Raises:
            ChangedElsewhereError: If another version is the newest.
            NotStoredError: If it cannot be written; the version before it stays.
            DataError: If it is no results file of this reader and study.
        """
        result = check_result("the answers", data, self.study)
        if result.reader != reader:
            raise DataError(f"answers of {result.reader} came by the link of {reader}", fix="open your own link")
        checksum = result.values["checksum"]
        with self._lock:
            newest = self._results.get(reader)
            known = newest.values["checksum"] if newest else ""
            if checksum == known:  # sent again, because the reply was lost
                return result
            if base != known:
                raise ChangedElsewhereError("these answers have been continued elsewhere", fix="load the page again")
            # Fewer answers than before, of a progress file that the reader chose: what was there is not lost.
            if newest and len(result.answers) < len(newest.answers):
                aside = self._path(f"{reader}-{known[:12]}", EARLIER)
                write_bytes(aside, self._path(reader).read_bytes(), error=NotStoredError)
            write_bytes(self._path(reader), data, error=NotStoredError)
            self._results[reader] = result
        return result

    def progress(self) -> list[ReaderProgress]:
        """How far every reader is, in the order of their names."""
        with self._lock:
            results = dict(self._results)
        return [_progress(reader, len(trials), results.get(reader)) for reader, trials in self.study.trials.items()]


def _progress(reader: str, num_trials: int, result: ResultFile | None) -> ReaderProgress:
    if result is None:
        return ReaderProgress(reader, num_trials)
    try:
        sessions = read_sessions(result.file, result.values)
    except DataError:  # a clock that was set back: import names it
        sessions = []
    seconds = sum(answer["seconds"] for answer in result.answers if isinstance(answer["seconds"], int | float))
    check = result.values.get("display_check")
    return ReaderProgress(
        reader=reader,
        answered=len(result.answers),
        num_trials=num_trials,
        sessions=len(result.values["sessions"]),
        minutes=seconds / 60,
        last=max((ended for _, ended in sessions), default=None),
        display_check=None if check is None else bool(check.get("passed")),
    )


@contextmanager
def opened_answers(out: str | Path, bundle: ReaderBundle) -> Iterator[AnswersFolder]:
    """The folder of a bundle's answers, new or of an earlier serving, locked until the body ends.

    Raises:
        DataError: If the answer key is on this machine's side, the bundle cannot be served, or the folder holds something else.
    """
    out = Path(out)
    refuse_key(bundle.path)
    refuse_key(out)
    check_servable(bundle)
    study = public_facts(bundle)
    readers = list(study.trials)
    identity = {name: getattr(study, name) for name in _IDS}
    job = JobFolder(out, SERVING, {**identity, "readers": readers})
    with job.opened():
        out.chmod(0o700)  # before the tokens are in it
        # Links stay valid when the server is started again.
        tokens = (job.read_index() or {}).get("tokens")
        if not isinstance(tokens, dict) or set(tokens) != {PROGRESS, *readers}:
            tokens = {name: secrets.token_urlsafe(16) for name in (PROGRESS, *readers)}
            job.write_index(tokens=tokens)
        yield AnswersFolder(job, study, tokens)


def refuse_key(folder: Path) -> None:
    """Refuse a folder that holds an answer key, under any name, or that the custodian's folder is beside.

    Raises:
        DataError: If there is one; names it.
    """
    beside = [parent / CUSTODIAN / KEY_FILE for parent in list(folder.absolute().parents)[:2]]
    others = [file for file in folder.rglob("*") if file.suffix not in (*VIEWER_SUFFIXES, ".zip") and file.is_file()]
    inside = [file for file in others if file.name == KEY_FILE or _is_key(file)]
    if keys := [*inside, *(file for file in beside if file.is_file())]:
        raise DataError(
            f"the answer key is at {keys[0]}",
            expected="a machine without it: readers reach what is served",
            fix="copy only readers/ and bundle.json of the bundle to the machine that serves; keep custodian/ elsewhere",
        )


def _is_key(file: Path) -> bool:
    try:
        read_key(file)
    except DataError:
        return False
    return True


def check_servable(bundle: ReaderBundle) -> None:
    """Refuse a bundle of another version: all readers of a study, served or not, read with one viewer.

    Raises:
        DataError: If its viewer, or its study's texts, are not those of this version.
    """
    viewer = viewer_files()
    for reader in bundle.readers:
        other = [name for name, data in viewer.items() if _bytes_of(reader.path / name) != data]
        missing = [name for name in _PAGES if not isinstance((reader.study.get("pages") or {}).get(name), str)]
        if other or missing:
            version = bundle.facts.get("medcodi")
            raise DataError(
                f"{reader.path} has another viewer than this version"
                + (f", {', '.join(other[:3])} differ" if other else f", its pages lack {', '.join(missing)}"),
                expected="a bundle exported by the version that serves it",
                fix=f"serve it with medcodi {version}, or export it again" if version else "export it again",
            )


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def reader_links(url: str, tokens: Mapping[str, str], readers: Sequence[str]) -> dict[str, str]:
    """Links: reader -> where it reads; last, PROGRESS -> the coordinator's page."""
    base = url.rstrip("/")
    links = {reader: f"{base}/read/{tokens[reader]}/" for reader in readers}
    return {**links, PROGRESS: f"{base}/progress/{tokens[PROGRESS]}"}
