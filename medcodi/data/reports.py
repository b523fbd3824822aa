"""Reports in: marks of de-identification, whitespace and section headings brought to one form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set
from pathlib import Path

from medcodi.data.refusals import Refused

MAX_REPORT_WORDS = 1000
MAX_REPORT_BYTES = 2**20  # of a text file: a thousand times a report, so that no device or archive is read to its end

# What de-identification leaves behind: MIMIC's ___ and [** ... **], Open-i's XXXX. A hyphen that hung on it goes too.
_MARK = re.compile(r"-?(?:\[\*\*.*?\*\*\]|_{2,}|X{3,}|x{4,})-?", re.DOTALL)
_X_RAY = re.compile(r"\b([Xx])-(?:X{3,}|_{2,})")  # the one removed word that can be known
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # no tab and no line end
_LIGATURE = re.compile("[\ufb00-\ufb06]")  # ff, fi, fl, ffi, ffl, st of text copied from print
_TIDY = (
    (re.compile(r"\(\s*[,;.\-\s]*\)|\[\s*[,;.\-\s]*\]|\*\*\]|\[\*\*"), " "),  # brackets with nothing left in them
    (re.compile(r"\s+([.,;:!?)])"), r"\1"),
    (re.compile(r"([(])\s+"), r"\1"),
    (re.compile(r"[,;:](?=[.,;])"), ""),
    (re.compile(r"\.(?:\s*\.)+"), "."),
    (re.compile(r"(?m)^[.,;\s]+"), ""),
)

# Heading as written -> section. Upper case anywhere, any case at the start of a line.
_HEADINGS = {
    "FINDINGS": "findings",
    "FINDING": "findings",
    "IMPRESSION": "impression",
    "IMPRESSIONS": "impression",
    "CONCLUSION": "impression",
    "CONCLUSIONS": "impression",
    "INDICATION": "indication",
    "HISTORY": "indication",
    "CLINICAL HISTORY": "indication",
    "REASON FOR EXAM": "indication",
    "REASON FOR EXAMINATION": "indication",
    "COMPARISON": "comparison",
    "COMPARISONS": "comparison",
    "TECHNIQUE": "technique",
    "EXAMINATION": "technique",
    "EXAM": "technique",
}
_NAMES = "|".join(sorted((re.escape(name) for name in _HEADINGS), key=len, reverse=True))
_HEADING = re.compile(rf"(?:(?:^|(?<=\n))[ \t]*(?i:({_NAMES}))|(?<![A-Za-z])({_NAMES}))[ \t]*:")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        Refused: If it is not UTF-8, where another encoding would leave wrong letters in the report; or longer than any report.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_REPORT_BYTES + 1)
    if len(data) > MAX_REPORT_BYTES:
        raise Refused(
            f"{path} is larger than {MAX_REPORT_BYTES:,} bytes",
            reason="report: too long",
            expected="one report",
            fix="give the findings and the impression only",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(
            f"{path} is not UTF-8 text (byte {error.start})",
            reason="report: not UTF-8",
            expected="UTF-8, with or without a byte order mark",
            fix="save it as UTF-8",
        ) from None


def normalise_report(text: str) -> str:
    """Bring a report to the one form that the models see.

    De-identification marks are removed, whitespace is collapsed, each known section starts on a line of its own as
    ``HEADING: text``. Doing it twice changes nothing.

    Args:
        text: The report as the source holds it.

    Returns:
        The normal form, 1 to 1000 words.

    Raises:
        Refused: If nothing is left, or there are more than 1000 words.
    """
    if not isinstance(text, str):
        raise Refused(f"a report of type {type(text).__name__}", reason="report: not text", expected="text")
    previous, current = None, _plain_letters(text)
    while previous != current:  # a removal can bring a mark together again; each pass only ever shortens or settles
        previous, current = current, _one_pass(current)
    if not re.search(r"\w", current):
        raise Refused(
            "the report is empty"
            if not text.strip()
            else f"the report {text.strip()[:40]!r} is empty once de-identification marks are removed",
            reason="report: empty",
            expected="at least one word",
            fix="leave the report out: an absent modality needs no stand-in",
        )
    words = len(current.split())
    if words > MAX_REPORT_WORDS:
        raise Refused(
            f"the report has {words:,} words ({current[:40]!r} ...)",
            reason="report: too long",
            expected=f"at most {MAX_REPORT_WORDS:,}",
            fix="give the findings and the impression only",
        )
    return current


def _plain_letters(text: str) -> str:
    """Letters as a reader sees them: ligatures of print apart, signs without a width gone, control characters but line ends blank.

    Otherwise an effusion with a ligature, or a word with a soft hyphen, would be other words to the labeler and the tokenizer.

    Raises:
        Refused: If a letter is none (a lone surrogate): no UTF-8 file could hold it.
    """
    text = _CONTROL.sub(" ", text)
    if text.isascii():
        return text
    text = _LIGATURE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    categories = {letter: unicodedata.category(letter) for letter in set(text)}
    if "Cs" in categories.values():
        raise Refused(
            f"the report {text[:40]!a} holds a broken letter", reason="report: not text", expected="Unicode text"
        )
    return unicodedata.normalize("NFC", "".join(letter for letter in text if categories[letter] != "Cf"))


def _one_pass(text: str) -> str:
    text = _X_RAY.sub(r"\1-ray", text)
    text = _MARK.sub(" ", text)
    # Marks are removed first: they may stand inside brackets and before punctuation.
    lines = []
    for name, body in _split(text):
        body = " ".join(body.split())
        for pattern, replacement in _TIDY:
            body = pattern.sub(replacement, body)
        body = " ".join(body.split())
        if name and re.search(r"\w", body):
            lines.append(f"{name}: {body}")
        elif body and not name:
            lines.append(body)
    return "\n".join(lines)


def _split(text: str) -> list[tuple[str, str]]:
    """(heading in upper case or "", text below it), in order."""
    # Cut at the headings; what precedes the first one has none.
    matches = list(_HEADING.finditer(text))
    starts = [match.start() for match in matches] + [len(text)]
    parts = [("", text[: starts[0]])]
    for match, stop in zip(matches, starts[1:], strict=True):
        parts.append(((match.group(1) or match.group(2)).upper(), text[match.end() : stop]))
    return parts


def sections(text: str) -> dict[str, str]:
    """Sections of a report: ``findings``, ``impression``, ``indication``, ``comparison``, ``technique``.

    Text before the first heading is under ``""``. Sections of the same name are joined.
    """
    by_name: dict[str, str] = {}
    for heading, body in _split(text):
        name, body = _HEADINGS.get(heading, ""), body.strip()
        if body:
            by_name[name] = f"{by_name[name]} {body}" if name in by_name else body
    return by_name


def compose_report(findings: str = "", impression: str = "") -> str:
    """One report of its two sections, either of which may be missing: ``FINDINGS: ...`` and ``IMPRESSION: ...``."""
    parts = (("FINDINGS", findings.strip()), ("IMPRESSION", impression.strip()))
    return "\n".join(f"{heading}: {body}" for heading, body in parts if body)


LEAST_KNOWN = 0.25  # share of a text's words that must be words of real reports
LEAST_VARIED = 0.2  # share of its words that must differ from each other, in a text of at least LEAST_WORDS
LEAST_WORDS = 8


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters: runs of letters."""
    return re.findall(r"[^\W\d_]+", text.lower())


def is_language(text: str, vocabulary: Set[str]) -> bool:
    """Whether a text that is not empty consists of words: ``"eeeee"`` does not, nor does one word over and over.

    Args:
        text: A report.
        vocabulary: Words of real reports, in small letters.
    """
    words = words_of(text)
    known = sum(word in vocabulary for word in words)
    varied = len(words) < LEAST_WORDS or len(set(words)) >= LEAST_VARIED * len(words)
    return known >= LEAST_KNOWN * len(words) > 0 and varied
