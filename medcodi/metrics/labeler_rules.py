"""Vocabulary and scopes of the rule labeler: from a sentence to mentions with a state, a side, a location and a size."""

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


def _bounded(entries: Iterable[str]) -> re.Pattern[str]:
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
    negation: dict[str, re.Pattern[str]]
    uncertainty: dict[str, re.Pattern[str]]
    hypothetical: re.Pattern[str]
    stops: re.Pattern[str]
    sizes: dict[str, re.Pattern[str]]
    locations: dict[str, re.Pattern[str]]


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary of ``labeler_vocabulary.yaml``, compiled once."""
    text = resources.files("medcodi.metrics").joinpath("labeler_vocabulary.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    return Vocabulary(
        abbreviations=tuple(
            (re.compile(pattern), replacement) for pattern, replacement in raw["abbreviations"].items()
        ),
        concepts={
            name: {key: value for key, value in row.items() if key != "mentions"}
            for name, row in raw["concepts"].items()
        },
        mentions={name: _bounded(row["mentions"]) for name, row in raw["concepts"].items()},
        negation={place: _bounded(raw["negation"][place]) for place in ("before", "after")},
        uncertainty={place: _bounded(raw["uncertainty"][place]) for place in ("before", "after")},
        hypothetical=_bounded(raw["hypothetical"]["before"]),
        stops=_bounded(raw["stops"]),
        sizes={name: _bounded([pattern]) for name, pattern in raw["size"].items()},
        locations={name: _bounded([pattern]) for name, pattern in raw["location"].items()},
    )


_HEADINGS = re.compile(
    r"\b(indication|history|clinical (?:history|information)|comparison|technique|exam(?:ination)?|reason for (?:exam|examination|study)|procedure|views?)\s*:",
    re.I,
)
_FINDING_HEADINGS = re.compile(r"\b(findings?|impressions?|conclusions?|opinion|results?|interpretation)\s*:", re.I)
_SENTENCE_END = re.compile(
    r"(?<!\bdr)(?<!\bvs)(?<!\bno)[.!](?=\s|$|[A-Za-z])(?!\d)|\n\s*(?=[A-Z0-9\-•*])|(?<=\s)\d{1,2}[.)]\s|(?<=[a-z]);\s"
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


def sentences(report: str) -> list[str]:
    """Lower-case sentences of the findings and impression of a report; headings, indication, history and comparison are left out."""
    result = []
    for part in _finding_parts(report):
        for sentence in _SENTENCE_END.split(part):
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
    chosen: list[tuple[Span, str]] = []
    for (start, end), name in candidates:
        if all(end <= other_start or start >= other_end for (other_start, other_end), _ in chosen):
            chosen.append(((start, end), name))
    return sorted(chosen)


def _last(pattern: re.Pattern[str], text: str) -> int:
    """End of the last match in ``text``, or -1."""
    return max((match.end() for match in pattern.finditer(text)), default=-1)


def _last_start(pattern: re.Pattern[str], text: str) -> int:
    return max((match.start() for match in pattern.finditer(text)), default=-1)


_NEW_ASSERTION = re.compile(
    r",(?= ?(?:and |with |the |a |an |but )*(?:stable|unchanged|persistent|residual|new|small|tiny|mild|mildly|moderate|large|minimal|"
    r"chronic|increased|interval|slight|subtle|bibasilar|bilateral|left|right|low|calcified|prominent|tortuous|heart|lungs?|cardiac)\b)(?!.*\b(?:or|nor)\b)"
)


def _scope(sentence: str, span: Span) -> tuple[str, str]:
    """Text before and after a mention, each up to the nearest stop."""
    before, after = sentence[: span[0]], sentence[span[1] :]
    stop = vocabulary().stops
    cut = max(
        _last_start(stop, before),
        max((match.start() for match in _NEW_ASSERTION.finditer(sentence) if match.start() < span[0]), default=-1),
    )
    matched = stop.search(after)
    return before[max(cut, 0) :], after[: matched.start()] if matched else after


def state_of(sentence: str, span: Span, next_start: int | None) -> str | None:
    """State of the mention at ``span``; None if it only says what was looked for.

    A scope runs from a trigger to the mention, or back, and ends at a stop ("but", "which", "there is" …). A trigger after the mention
    reaches it only across the rest of its own list. Uncertainty outweighs negation ("cannot be excluded").
    """
    words = vocabulary()
    before, after = _scope(sentence, span)
    if _last(words.hypothetical, sentence[: span[0]]) >= 0 and words.hypothetical.search(before):
        return None
    # Triggers before the mention (end of the last one) and after it.
    uncertain_before, negated_before = (
        _last(words.uncertainty["before"], before),
        _last(words.negation["before"], before),
    )
    reach = re.split(r"[.;]", after)[0]
    uncertain_after, negated_after = words.uncertainty["after"].search(reach), words.negation["after"].search(reach)
    # The rules in order of strength; 60 characters are about the rest of a list.
    if uncertain_after and not (negated_before >= 0 and uncertain_after.start() > 60):
        return "uncertain"
    if negated_before >= 0 and negated_before > uncertain_before:
        return "negative"
    if negated_after and _list_reaches(reach[: negated_after.start()]):
        return "negative"
    if negated_before >= 0 and uncertain_before >= 0:
        return "negative"
    return "uncertain" if uncertain_before >= 0 else "positive"


def _list_reaches(between: str) -> bool:
    """Whether the words between a mention and a later trigger only continue a list or a place ("or effusion in the left base")."""
    return not re.search(r"(?<![\w-])(?:is|are|was|were|has|have|seen|noted|present|with)(?![\w-])", between)


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
