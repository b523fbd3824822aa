"""Prompts outside the domain that a model was trained in: what is said on the terminal, as a warning, and in provenance."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcodi.data.domain import PHANTOM, REAL, UNKNOWN, Domain, origin_of_image
from medcodi.errors import DomainWarning
from medcodi.metrics.labeler import label_report
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.networks.tokenizer import AbsentTokenizer
from medcodi.study import Direction

OUTSIDE = "outside_domain"  # key in provenance
# Share of a text's words; of 300 phantom reports none had more than 0.15 that the demo does not know.
MAX_UNKNOWN_WORDS = 0.5
MIN_WORDS = 3


def warn_outside_domain(model: MedCoDi, direction: Direction, prompts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Warn, once for each way in which a request leaves the training domain; returns the entry for its provenance.

    Args:
        model: A model that knows its domain; another one gives no warning.
        direction: Prompts and targets.
        prompts: The prompts as they were given: texts, paths, PIL images, arrays.
    """
    notices = list(outside_domain(model, direction, prompts))
    for notice in notices:
        warnings.warn(notice, DomainWarning, stacklevel=3)
    return {OUTSIDE: notices} if notices else {}


def outside_domain(model: MedCoDi, direction: Direction, prompts: Mapping[str, Any]) -> Iterator[str]:
    """Name all of a request that is not of the domain that the model was trained in, a sentence each."""
    domain = Domain.of(model.provenance)
    if domain is None:
        return
    # Modalities of which it has seen none.
    for name in direction.prompts + direction.targets:
        if domain.modalities and name not in domain.modalities:
            yield f"no study that this model was trained on has a {name}: nothing that it makes of one is learnt"
    for name, value in prompts.items():
        if MODALITIES[name].kind == "text":
            yield from _of_text(model, domain, name, value)
        elif MODALITIES[name].kind == "image":
            yield from _of_image(domain, name, origin_of_image(value))


def _of_image(domain: Domain, name: str, origin: str) -> Iterator[str]:
    trained = "this model was trained on computed phantoms alone"
    if domain.origin == PHANTOM and origin == REAL:
        yield f"the {name} is a real film, and {trained}: what it generates is no reading of this film"
    elif domain.origin == PHANTOM and origin == UNKNOWN:
        yield f"the {name} is of unknown origin, and {trained}: if it is a real film, what it generates is no reading of this film"
    elif domain.origin == REAL and origin == PHANTOM:
        yield f"the {name} is a computed phantom, and this model was trained on real films"


def _of_text(model: MedCoDi, domain: Domain, name: str, value: Any) -> Iterator[str]:
    text = value if isinstance(value, str) else Path(value).read_text(encoding="utf-8")
    # Words: a tokenizer that learnt its words from the training reports breaks those of other texts into pieces.
    tokenizer, words = model.tokenizers.prompts, re.findall(r"[^\W\d_]{3,}", text)
    if len(words) >= MIN_WORDS and not isinstance(tokenizer, AbsentTokenizer):
        unknown = [word for word in words if not tokenizer.ids_of_words([word])]
        if len(unknown) > MAX_UNKNOWN_WORDS * len(words):
            some = ", ".join(dict.fromkeys(unknown[:5]))
            yield f"most words of the {name} are in no report that this model was trained on ({some}): what it generates may ignore them"
    # Findings.
    positive = dict.fromkeys(finding.label for finding in label_report(text) if finding.state == "positive")
    new = [label for label in positive if label not in domain.findings and label != "No Finding"]
    if domain.findings and new:
        yield f"no study that this model was trained on shows {', '.join(new)}, which the {name} names"
