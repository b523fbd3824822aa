"""States of the rule labeler's mentions: positive, negative or uncertain, from the triggers whose scope reaches them."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from medcodi.metrics.labeler_rules import Span, bounded

_MARK = re.compile("[.;]")
_BLANK = "~"  # takes the place of characters that trigger nothing
# ", which was seen last week," between a mention and its verb
_PARENTHESIS = re.compile(
    r", (?:which|that|although|though|while|previously|formerly|"
    r"seen|noted|described|identified|reported|visible|present|better seen)\b[^,;]*,"
)
# a finite verb between a mention and a later trigger: the trigger belongs to another subject
_OTHER_VERB = re.compile(r"(?<![\w-])(?:is|are|was|were|has|have|with)(?![\w-])")
# "seen last week": a participle right after a mention is no verb of its own, up to the next comma
_PARTICIPLE = re.compile(r"^ (?:previously |again )?(?:seen|noted|present|identified|described|demonstrated)\b[^,;]*$")
# "was drained and" before a trigger: the mention is the subject of both verbs
_SAME_SUBJECT = re.compile(r"^ (?:is|are|was|were|has|have)(?: (?!and\b)\w+){1,4},? and(?: now)? ?$")
_PARTICIPLES = re.compile(r"(?<![\w-])(?:seen|noted|present)(?![\w-])")
_REACH = 500  # the most characters of a scope, so that the time for a text without full stops is not quadratic
_REACH_OF_DOUBT = 60  # characters from a negated mention to a later trigger of uncertainty; about the rest of a list
_NONE = 1_000_000  # more characters than a sentence has
# what comes before a presupposing phrase that begins a new statement
_CONJUNCTION = re.compile(r"(?:,|\band)(?: there (?:is|has been))? ?$")


@dataclass(frozen=True)
class Triggers:
    """The compiled file of triggers, which says what each part is for."""

    presupposing: re.Pattern[str]
    portions: re.Pattern[str]
    negation: dict[str, re.Pattern[str]]
    uncertainty: dict[str, re.Pattern[str]]
    answers: dict[str, re.Pattern[str]]
    hypothetical: re.Pattern[str]
    stops: dict[str, re.Pattern[str]]
    clauses: dict[str, re.Pattern[str]]


@cache
def triggers() -> Triggers:
    """The triggers of ``labeler_triggers.yaml``, compiled once."""
    raw = yaml.safe_load(resources.files("medcodi.metrics").joinpath("labeler_triggers.yaml").read_text("utf-8"))
    rules = _with_terms(raw, raw["terms"])
    return Triggers(
        presupposing=bounded(rules["presupposing"]),
        portions=bounded(rules["portions"]),
        negation={place: bounded(entries) for place, entries in rules["negation"].items()},
        uncertainty={place: bounded(entries) for place, entries in rules["uncertainty"].items()},
        answers={state: re.compile(pattern) for state, pattern in rules["answers"].items()},
        hypothetical=bounded(rules["hypothetical"]["before"]),
        stops={place: bounded(entries) for place, entries in rules["stops"].items()},
        clauses={kind: bounded([pattern]) for kind, pattern in rules["clauses"].items()},
    )


def _with_terms(value: Any, terms: dict[str, str]) -> Any:
    """The rules with each ``<name>`` replaced by the term of that name."""
    if isinstance(value, str):
        while (filled := re.sub(r"<(\w+)>", lambda match: terms[match[1]], value)) != value:
            value = filled
        return value
    if isinstance(value, list):
        return [_with_terms(item, terms) for item in value]
    return {key: _with_terms(item, terms) for key, item in value.items()}


@dataclass(frozen=True)
class Scopes:
    """A sentence as triggers are searched in it, and where their scopes end."""

    text: str  # of the sentence's length; answers are blank
    negatable: str  # in which triggers of negation are searched: presupposing phrases are blank as well
    starts: list[int]  # positions where a scope that ends at a mention can begin, ascending
    negation_starts: list[int]  # the same of negations, which end at more
    ends: list[int]  # positions where a scope that begins at a mention can end, ascending
    answers: dict[Span, str]  # state of each mention with an answer ("effusion: none")


def read_scopes(sentence: str, spans: list[Span]) -> Scopes:
    """Scopes of a lower-case sentence; ``spans``: all its mentions, in order."""
    words = triggers()
    text, starts, negation_starts, ends = sentence, [0], [0], [len(sentence)]
    # Answers belong to the mention before them, and to no other.
    answers = {}
    for span in spans:
        for state, pattern in words.answers.items():
            if answer := pattern.match(sentence, span[1]):
                answers[span] = state
                text = _blanked(text, answer.span())
                starts.append(answer.end())
                break
    # Phrases that presuppose a finding negate nothing, and end the scopes of negation around them.
    negatable, taken = text, bytearray(len(text))
    for start, end in spans:
        taken[start:end] = b"\1" * (end - start)
    for match in words.presupposing.finditer(text):
        if not any(taken[match.start() : match.end()]):
            negatable = _blanked(negatable, match.span())
            negation_starts.append(match.end())
            ends.append(match.start())
            if _CONJUNCTION.search(text[max(match.start() - 20, 0) : match.start()]):
                starts.append(match.end())
    # Stops, and new clauses after them.
    for match in words.stops["both"].finditer(negatable):
        starts.append(match.start())
        ends.append(match.start())
    starts.extend(match.start() for match in words.stops["before"].finditer(text))
    negation_starts.extend(match.start() for match in words.stops["negated"].finditer(text))
    for position in _new_clauses(negatable, sorted(starts), words):
        starts.append(position)
        ends.append(position)
    return Scopes(text, negatable, sorted(starts), sorted(negation_starts + starts), sorted(ends), answers)


def _blanked(text: str, span: Span) -> str:
    return text[: span[0]] + _BLANK * (span[1] - span[0]) + text[span[1] :]


def _new_clauses(text: str, starts: list[int], words: Triggers) -> list[int]:
    """Positions where a clause with a verb of its own begins after another clause ("no edema is seen | and the effusion is larger")."""
    positions: list[int] = []
    candidates = sorted(
        (match.start(), kind) for kind in ("definite", "bare", "short") for match in words.clauses[kind].finditer(text)
    )
    for position, kind in candidates:
        begin = max(_begin(starts, position), positions[-1] if positions else 0)
        preceding = text[begin:position]
        # "no edema and the effusion is larger", "no edema, effusion larger": no verb is needed before
        if (
            words.clauses["statement"].search(preceding)
            or _BLANK in preceding
            or words.clauses["fronted"].match(preceding)
            or (kind != "bare" and words.negation["before"].search(preceding))
        ):
            positions.append(position)
    return positions


def state_of(scopes: Scopes, span: Span) -> str | None:
    """State of the mention at ``span``; None if it only says what was looked for.

    A scope runs from a trigger to the mention, or back, and ends at a stop ("but", "which", "there is" …) or a new clause.
    A trigger after the mention reaches it only across the rest of its own list. Uncertainty outweighs negation ("cannot be excluded").
    """
    words = triggers()
    before = scopes.text[_begin(scopes.starts, span[0]) : span[0]]
    if words.hypothetical.search(before):
        return None
    if span in scopes.answers:
        return scopes.answers[span]
    # Triggers before the mention, from its nearest to the end of the scope, and after it.
    negatable = scopes.negatable[_begin(scopes.negation_starts, span[0]) : span[0]]
    negated_before, strongly_doubted = (
        _distance(words.negation["before"], negatable),
        _distance(words.uncertainty["before_strong"], before),
    )
    begin, end = _after(scopes, span)
    after = scopes.negatable[begin:end]
    negated_after, strongly_negated = (
        words.negation["after"].search(after),
        words.negation["after_strong"].search(after),
    )
    doubted_after = words.uncertainty["after"].search(scopes.text[begin:end])
    if negated_after and words.portions.search(before):
        negated_after = None
    # The rules in order of strength.
    if strongly_doubted < negated_before:
        return "uncertain"
    if strongly_negated and _reaches(after[: strongly_negated.start()]):
        return "negative"
    if doubted_after and (negated_before == _NONE or doubted_after.start() <= _REACH_OF_DOUBT):
        return "uncertain"
    if negated_before < _NONE or (negated_after and _reaches(after[: negated_after.start()])):
        return "negative"
    return "uncertain" if words.uncertainty["before"].search(before) else "positive"


def _begin(starts: list[int], end: int) -> int:
    """The start of a scope that ends at ``end``."""
    return max(starts[bisect_right(starts, end) - 1], end - _REACH)


def _after(scopes: Scopes, span: Span) -> Span:
    """The scope after a mention, without a parenthesis right after it."""
    begin = span[1]
    if parenthesis := _PARENTHESIS.match(scopes.text, begin):
        begin = parenthesis.end()
    end = min(scopes.ends[bisect_left(scopes.ends, begin)], begin + _REACH)
    mark = _MARK.search(scopes.text, begin, end)
    return begin, mark.start() if mark else end


def _distance(pattern: re.Pattern[str], before: str) -> int:
    """Characters between the end of the last match and the end of the text; ``_NONE`` without a match."""
    return min((len(before) - match.end() for match in pattern.finditer(before)), default=_NONE)


def _reaches(between: str) -> bool:
    """Whether the words between a mention and a later trigger only continue a list, a place or a time ("or effusion in the left base")."""
    if _OTHER_VERB.search(between):
        return bool(_SAME_SUBJECT.match(between))
    return bool(_PARTICIPLE.match(between)) or not _PARTICIPLES.search(between)
