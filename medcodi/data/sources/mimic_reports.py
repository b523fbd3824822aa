"""MIMIC-CXR's free-text reports: which part is the final report, and what in it are findings and impression.

The rules, in order:

1. Lines of underscores and the banners ``FINAL REPORT``, ``FINAL ADDENDUM``, ``WET READ``, ``PRELIMINARY REPORT`` cut the
   text into parts. A wet read is a first look that the final report replaces; an addendum reports calls and
   corrections: neither is used.
2. A heading is a known name in capitals before a colon anywhere, in any case at the start of a line, or in capitals
   alone on its line; or any other words in capitals before a colon at the start of a line.
3. ``FINDINGS`` and ``IMPRESSION`` have many names (the tables below). A heading that names a film (``PORTABLE AP CHEST:``)
   opens the findings, until a real ``FINDINGS`` comes. Other headings inside them (``LUNGS:``) stay in their text.
4. Where no heading says findings, they are the paragraphs under no heading: what follows the first paragraph of
   the technique or comparison, and sentences before the first heading; else the last paragraph after a blank line below
   a history or a reason for the examination.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FINDINGS, _IMPRESSION, _FILM, _OPEN, _CLOSED = "findings", "impression", "film", "open", "closed"
_TEXTS, _NO_HEADING = (_FINDINGS, _IMPRESSION, _FILM), "no heading"
_NAMES = {
    _FINDINGS: "FINDINGS|FINDING|REPORT|FINDINGS/IMPRESSION|FINDINGS AND IMPRESSION|FINDINGS & IMPRESSION"
    "|IMPRESSION/FINDINGS|IMPRESSION AND FINDINGS|FINDNGS|CHEST FINDINGS",
    _IMPRESSION: "IMPRESSION|IMPRESSIONS|IMPRSSION|IMPRESSON|CONCLUSION|CONCLUSIONS|OPINION|SUMMARY|INTERPRETATION"
    "|CONCLUSION/IMPRESSION|IMPRESSION/RECOMMENDATION|IMPRESSION AND RECOMMENDATION",
    # Sections of one paragraph: what follows a blank line is under no heading.
    _OPEN: "COMPARISON|COMPARISONS|COMPARISON STUDY|COMPARISON STUDIES|COMPARISON EXAM|TECHNIQUE|STUDY|EXAMINATION|EXAM"
    "|PROCEDURE|REFERENCE EXAM|REFERENCE|TYPE OF EXAMINATION|VIEWS",
    # Never findings, however long.
    _CLOSED: "INDICATION|INDICATIONS|HISTORY|CLINICAL HISTORY|CLINICAL INFORMATION|CLINICAL INDICATION|MEDICAL CONDITION"
    "|REASON FOR EXAM|REASON FOR EXAMINATION|REASON FOR THIS EXAMINATION|REASON|NOTIFICATION|NOTIFICATIONS"
    "|RECOMMENDATION|RECOMMENDATIONS|RECOMMENDATION(S)|ADDENDUM|DISCUSSION|WET READ|PROVISIONAL FINDINGS IMPRESSION"
    "|PROVISIONAL FINDINGS IMPRESSION (PFI)|PFI|ATTENDING|DLP|DOSE|PATIENT HISTORY|SIGNED|DICTATED|ATTESTATION"
    "|COMMENT ON COMMUNICATION",
}
_KIND = {name: kind for kind, names in _NAMES.items() for name in names.split("|")}
_KNOWN = "|".join(sorted((re.escape(name) for name in _KIND), key=len, reverse=True))
_HEADING = re.compile(
    rf"^[ \t]*(?P<line>(?i:{_KNOWN}))[ \t]*:"
    rf"|^[ \t]*(?P<alone>{_KNOWN})[ \t]*$"
    r"|^[ \t]*(?P<other>[A-Z][^\n]{1,80}?):(?=\s|$)"
    rf"|(?<![A-Za-z])(?P<anywhere>{_KNOWN})[ \t]*:(?=\s|$)",
    re.MULTILINE,
)
_FILM_WORDS = re.compile(r"\b(CHEST|CXR|VIEWS?|RADIOGRAPHS?|PORTABLE|FRONTAL|LATERAL|FILMS?|PA|AP)\b")
_NOT_FILM_WORDS = re.compile(r"\b(INDICATION|HISTORY|REASON|COMPARISON|TECHNIQUE|RECOMMENDATIONS?|NOTIFICATION)\b")
_RULE = re.compile(r"^[ \t]*_{8,}[ \t]*$", re.MULTILINE)  # three underscores are a removed word
_BANNER = re.compile(
    r"^[ \t]*(?P<banner>FINAL REPORT|FINAL ADDENDUM|ADDENDUM|PRELIMINARY REPORT|WET READ(?: VERSION)?)\b(?P<rest>[^\n]*)$",
    re.MULTILINE,
)
_HISTORY = re.compile(r"(?:CLINICAL |PATIENT )?HISTORY|REASON(?: FOR (?:THIS )?EXAM(?:INATION)?)?")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_MIN_WORDS = 4  # a paragraph of fewer is a title


@dataclass(frozen=True, kw_only=True)
class MimicReport:
    """The parts of a report that are used."""

    findings: str = ""  # their text, or ""
    impression: str = ""  # its text, or ""
    # kinds of the parts that the text has: ``final``, ``wet read``, ``addendum``, ``preliminary``
    parts: tuple[str, ...] = ()

    @property
    def why_empty(self) -> str:
        """The ledger's reason where both are empty."""
        if not self.parts:
            return "report: empty"
        if "final" not in self.parts:
            return f"report: {self.parts[-1]} only"
        return "report: no findings or impression"


def read_mimic_report(text: str) -> MimicReport:
    """Find the findings and the impression of a report; where several parts have one, the last one's counts."""
    parts = list(_parts(text.replace("\r\n", "\n").replace("\r", "\n")))
    finals = [_sections(body) for kind, body in parts if kind == "final"]
    last = {kind: next((sections[kind] for sections in reversed(finals) if sections[kind]), "") for kind in _TEXTS}
    without = finals[0][_NO_HEADING] if finals else ""  # below a second rule come calls and signatures
    return MimicReport(
        findings=last[_FINDINGS] or last[_FILM] or without,
        impression=last[_IMPRESSION],
        parts=tuple(dict.fromkeys(kind for kind, _ in parts)),
    )


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """(kind, body) of each part that has words, in order; what has findings or impression of its own is final."""
    for block in _RULE.split(text):
        kind, start = "final", 0
        for match in _BANNER.finditer(block):
            yield from _part(kind, block[start : match.start()])
            kind = _kind_of_banner(match["banner"])
            start = match.end() if kind == "final" else match.start("rest")
        headings = _HEADING.finditer(block, start) if kind == "addendum" else ()
        stop = next(
            (match.start() for match in headings if _KIND.get(match["line"] or match["alone"] or "")), len(block)
        )
        yield from _part(kind, block[start:stop])
        yield from _part("final", block[stop:])


def _part(kind: str, body: str) -> Iterator[tuple[str, str]]:
    if len(re.findall(r"[A-Za-z]{2,}", body)) > 1:
        yield kind, body


def _kind_of_banner(banner: str) -> str:
    if "ADDENDUM" in banner:
        return "addendum"
    return {"WET READ": "wet read", "PRELIMINARY REPORT": "preliminary"}.get(banner.removesuffix(" VERSION"), "final")


def _sections(body: str) -> dict[str, str]:
    """Kind of text -> text, in a final part."""
    texts: dict[str, list[str]] = {kind: [] for kind in _TEXTS}
    under_none: list[str] = []
    after_history: list[str] = []
    kind = _OPEN
    for place, (heading, text) in enumerate(_headed(body)):
        named = _kind_of_heading(heading)
        if not named and kind in texts:  # LUNGS: within the findings
            texts[kind].append(f"{heading}: {text}")
            continue
        kind = named or (_OPEN if place == 0 else _CLOSED)
        if kind in texts:
            texts[kind].append(text)
        elif kind == _OPEN:
            paragraphs = _PARAGRAPH.split(text)
            under_none += filter(_is_prose, paragraphs[0 if place == 0 else 1 :])
        elif _HISTORY.fullmatch(heading):
            after_history += filter(_is_prose, _PARAGRAPH.split(text)[1:])
    joined = {kind: _tidy(" ".join(pieces)) for kind, pieces in texts.items()}
    return {**joined, _NO_HEADING: _tidy(" ".join(under_none or after_history[-1:]))}


def _kind_of_heading(heading: str) -> str:
    if heading in _KIND:
        return _KIND[heading]
    if _NOT_FILM_WORDS.search(heading):
        return _CLOSED
    return _FILM if _FILM_WORDS.search(heading) else ""


def _headed(body: str) -> Iterator[tuple[str, str]]:
    """(heading in capitals, text below it), the text before the first heading under ""."""
    matches = [match for match in _HEADING.finditer(body) if _is_heading(match)]
    starts = [match.start() for match in matches] + [len(body)]
    yield "", body[: starts[0]]
    for match, stop in zip(matches, starts[1:], strict=True):
        name = next(name for name in match.groups() if name)
        yield " ".join(name.upper().split()), body[match.end() : stop]


def _is_heading(match: re.Match[str]) -> bool:
    other = match["other"]
    return other is None or (other == other.upper() and re.search(r"[A-Z]{2,}", other) is not None)


def _is_prose(paragraph: str) -> bool:
    return len(paragraph.split()) >= _MIN_WORDS and paragraph.upper() != paragraph


def _tidy(text: str) -> str:
    """One line; "" where nothing but marks of de-identification is left."""
    text = " ".join(text.split())
    return text if re.search(r"[A-Za-z0-9]", text) else ""
