"""Vocabulary of the rule labeler, sentences of a report, mentions in a sentence, and their side, location and size."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

Span = tuple[int, int]


@dataclass(frozen=True)
class Mention:
    """One mention of a concept in a sentence."""

    concept: str  # name in the vocabulary, finer than a label ("nodule" and "mass" are both Lung Lesion)
    label: str | None  # CheXpert name, if there is one for the concept
    state: str  # "positive", "negative" or "uncertain"
    side: str | None = None  # "left", "right" or "bilateral"
    location: str | None = None  # "upper", "middle" or "lower"
    size: str | None = None  # "small", "moderate" or "large"
    sentence: int = 0  # index in the report


def bounded(entries: Iterable[str]) -> re.Pattern[str]:
    """Any of the entries, at word boundaries where it begins or ends with a word."""
    return re.compile(
        r"(?:(?<![\w-])|(?=\W))(?:" + "|".join(f"(?:{entry})" for entry in entries) + r")(?:(?!\w)|(?<=\W))"
    )


@dataclass(frozen=True)
class Vocabulary:
    """The compiled vocabulary file."""

    abbreviations: tuple[tuple[re.Pattern[str], str], ...]
    concepts: dict[str, dict[str, Any]]
    mentions: dict[str, re.Pattern[str]]
    sizes: dict[str, re.Pattern[str]]
    locations: dict[str, re.Pattern[str]]


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary of ``labeler_vocabulary.yaml``, compiled once."""
    raw = yaml.safe_load(resources.files("medcodi.metrics").joinpath("labeler_vocabulary.yaml").read_text("utf-8"))
    concepts = raw["concepts"]
    return Vocabulary(
        abbreviations=tuple(
            (re.compile(pattern), replacement) for pattern, replacement in raw["abbreviations"].items()
        ),
        concepts={
            name: {key: value for key, value in row.items() if key != "mentions"} for name, row in concepts.items()
        },
        mentions={name: bounded(row["mentions"]) for name, row in concepts.items()},
        sizes={name: bounded([pattern]) for name, pattern in raw["size"].items()},
        locations={name: bounded([pattern]) for name, pattern in raw["location"].items()},
    )


_HEADINGS = re.compile(
    r"\b(indication|history|clinical (?:history|information)|comparison|technique|exam(?:ination)?|reason for (?:exam|examination|study)|procedure|views?)\s*:",
    re.I,
)
_FINDING_HEADINGS = re.compile(r"\b(findings?|impressions?|conclusions?|opinion|results?|interpretation)\s*:", re.I)
# "no. 3" is a number, "no." an answer
_SENTENCE_END = re.compile(
    r"(?<!\bdr)(?<!\bvs)(?!(?<=\bno)\.\s*\d)[.!](?=\s|$|[A-Za-z])(?!\d)|\n\s*\n|\n\s*(?=\d|[•*-] )|(?<=\s)\d{1,2}[.)]\s|(?<=[a-z]);\s"
)
# a line that ends with one of these goes on in the next one
_OPEN_LINE = re.compile(
    r"(?:[,(/]|(?<![\w-])(?<![:?=-] )(?:no|not|without|with|of|for|in|on|at|to|from|by|and|or|nor|the|an?|is|are|was|were|has|have|been|be|may|"
    r"than|as|small|large|mild|moderate|minimal|new|stable|acute|focal|pleural|pulmonary|lung|lobe|left|right|upper|lower|middle))\s*$",
    re.I,
)
# words that begin a statement, at the begin of a line
_NEW_LINE = re.compile(
    r"\s*(?:[A-Z0-9]|(?:no|there|the|this|an?|stable|unchanged|persistent|residual|new|old|small|tiny|trace|mild|mildly|moderate|large|"
    r"minimal|chronic|increased|decreased|interval|slight|bilateral|bibasilar|bibasal|biapical|left|right|multiple|several|patchy|diffuse|normal|clear|heart|lungs|status)\b)"
)


def _finding_parts(report: str) -> list[str]:
    """The report without the parts under other headings: up to the next heading, or to the end of the sentence if no findings follow."""
    finding_headings = list(_FINDING_HEADINGS.finditer(report))
    marks = sorted(
        [(m.start(), m.end(), False) for m in _HEADINGS.finditer(report)]
        + [(m.start(), m.end(), True) for m in finding_headings]
    )
    parts, position = [], 0
    # Text before each heading; the part under another heading than of findings is skipped.
    for number, (start, end, keep) in enumerate(marks):
        parts.append(report[position:start])
        position = end
        if not keep:
            following = marks[number + 1][0] if number + 1 < len(marks) else len(report)
            sentence = re.search(r"[.\n]", report[end:following])
            structured = any(heading.start() > start for heading in finding_headings)
            position = following if structured or not sentence else end + sentence.end()
    return [*parts, report[position:]]


def _joined_lines(part: str) -> str:
    """The text with a full stop where a line begins a new statement, and a line break where it continues the one before."""
    first, *others = part.split("\n")
    lines = [first]
    for line in others:
        new = not _OPEN_LINE.search(lines[-1]) and (_NEW_LINE.match(line) or _between_mentions(lines[-1], line))
        lines[-1] += ". " if new else "\n"
        lines.append(line)
    return "".join(lines)


def _between_mentions(line: str, following: str) -> bool:
    """Whether a line ends with a mention and the following one begins with another, as in a list without marks."""
    line, following = line.rstrip().lower(), following.strip().lower()
    ends = any(end == len(line) for (_, end), _ in concept_spans(line))
    return ends and any(start == 0 for (start, _), _ in concept_spans(following))


def sentences(report: str) -> list[str]:
    """Lower-case sentences of the findings and impression of a report; headings, indication, history and comparison are left out."""
    result = []
    for part in _finding_parts(report):
        for sentence in _SENTENCE_END.split(_joined_lines(part)):
            # De-identification marks become one word, and white space one blank.
            sentence = re.sub(r"[_]{2,}", "xxxx", sentence.lower())
            sentence = re.sub(r"\s+", " ", sentence.replace("’", "'")).strip(" .:-*•")
            if sentence:
                result.append(expand(sentence))
    return result


def expand(sentence: str) -> str:
    """Abbreviations and ways to say "bilateral" in full."""
    for pattern, replacement in vocabulary().abbreviations:
        sentence = pattern.sub(replacement, sentence)
    return sentence


def concept_spans(sentence: str) -> list[tuple[Span, str]]:
    """Mentions in order, none overlapping: of two that overlap the longer one stays."""
    candidates = [
        (match.span(), name) for name, pattern in vocabulary().mentions.items() for match in pattern.finditer(sentence)
    ]
    # Longest first, so that "pleural effusion" is found before "effusion".
    candidates.sort(key=lambda item: (item[0][0] - item[0][1], item[0][0]))
    chosen, taken = [], bytearray(len(sentence))
    for (start, end), name in candidates:
        if not any(taken[start:end]):
            chosen.append(((start, end), name))
            taken[start:end] = b"\1" * (end - start)
    return sorted(chosen)


_SIDE = re.compile(r"(?<![\w-])(left|right|bilateral)(?![\w])")
_LINK = re.compile(r",| and | or | with |;|:")


def place_of(sentence: str, spans: list[tuple[Span, str]], index: int) -> tuple[str | None, str | None, str | None]:
    """Side, location and size of mention ``index``: inside it, else nearest before it, else after it up to the next list mark or mention."""
    (start, end), _ = spans[index]
    previous = spans[index - 1][0][1] if index else 0
    following = spans[index + 1][0][0] if index + 1 < len(spans) else len(sentence)
    # The text of the mention, and the text on both sides up to the neighbouring mentions or the next list mark.
    inside, before, after = sentence[start:end], sentence[previous:start], sentence[end:following]
    if index + 1 < len(spans):
        marks = list(_LINK.finditer(after))
        after = after[: marks[-1].start()] if marks else after
    near_before = re.split(r"; |, (?!(?:left|right)\b)", before)[-1]
    # Side and location: inside, else just before, else after; a size after a mention may belong to the next one.
    side = _side_in(inside) or _side_in(near_before, last=True) or _side_in(after) or _side_in(before, last=True)
    words = vocabulary()
    location = (
        _named(words.locations, inside)
        or _named(words.locations, near_before, last=True)
        or _named(words.locations, after)
    )
    size = _named(words.sizes, inside) or _named(words.sizes, near_before, last=True)
    if not size and index + 1 == len(spans):
        size = _named(words.sizes, after)
    return side, location, size


def _side_in(text: str, last: bool = False) -> str | None:
    sides = _SIDE.findall(text)
    if not sides:
        return None
    # "left and right", "right as well as left"
    if {"left", "right"} <= set(sides) and re.search(
        r"(left|right)\b[\w ,-]*\b(?:and|as well as|also)\b[\w ,-]*\b(left|right)", text
    ):
        return "bilateral"
    return sides[-1] if last else sides[0]


def _named(patterns: dict[str, re.Pattern[str]], text: str, last: bool = False) -> str | None:
    hits = [(match.start(), name) for name, pattern in patterns.items() for match in pattern.finditer(text)]
    return (max(hits) if last else min(hits))[1] if hits else None
