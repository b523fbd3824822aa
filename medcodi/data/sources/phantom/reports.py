"""Reports of phantom version 2: full and telegraphic, with sections that come and go, and beside an earlier study of the patient.

Whatever the style, a report affirms exactly the findings of its study, on their sides and in their degrees. On purpose ambiguous:
one consolidation in ten is only called an opacity or infiltrate, and some small findings are doubted ("possible").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from medcodi.data.sources.phantom.body import SIZES, Body
from medcodi.study import Finding

LOOSE, DOUBTED = 0.10, 0.05  # of the consolidations, and of the small or unsized findings
MISSPELT, LOWER_CASE = 0.05, 0.05  # of the reports
_CAN_BE_DOUBTED = {"Pleural Effusion", "Pneumothorax", "Consolidation", "Lung Lesion", "Atelectasis", "Edema"}
_DIAMETER = {"small": 2.1, "moderate": 3.0, "large": 4.4}  # cm: what is drawn
_SHORT_ZONE = {"upper": "UL", "middle": "ML", "lower": "LL"}
_LAYOUTS = ("both", "impression", "findings", "plain", "swapped")
_LAYOUT_SHARES = np.cumsum((0.74, 0.12, 0.04, 0.06, 0.04))
_PATIENT = {"F": ("woman", "female", "lady"), "M": ("man", "male", "gentleman")}
# Share of the reports that deny an absent finding; 0.05 for the others.
_DENIED = {"Consolidation": 0.85, "Pleural Effusion": 0.9, "Pneumothorax": 0.9, "Edema": 0.3, "Lung Lesion": 0.25}
_LUNG = {"Consolidation", "Edema", "Lung Lesion", "Atelectasis", "Pleural Effusion", "Pneumothorax"}


@cache
def phrases() -> dict[str, Any]:
    """The phrases of ``phrases.yaml``."""
    return yaml.safe_load(resources.files(__spec__.parent).joinpath("phrases.yaml").read_text("utf-8"))


def report(
    rng: np.random.Generator,
    body: Body,
    view: str,
    findings: Sequence[Finding],
    before: Sequence[Finding] | None = None,
) -> str:
    """The report of a study.

    Args:
        rng: Chooses style, phrases and order.
        body: The patient.
        view: Projection of the frontal, ``PA`` or ``AP``.
        findings: Positive findings.
        before: Those of the patient's study before; None where there is none, and then no word compares.

    Returns:
        The normal form of reports.
    """
    writer = _Writer(rng, body, tuple(findings), None if before is None else tuple(before))
    layout = _LAYOUTS[int(np.searchsorted(_LAYOUT_SHARES, rng.random(), side="right"))]
    lines = writer.preamble(view)
    if layout in ("both", "swapped"):
        sections = [("FINDINGS", writer.description(alone=False)), ("IMPRESSION", writer.summary(alone=False))]
        lines += sections if layout == "both" else sections[::-1]
    elif layout == "findings":
        lines.append(("FINDINGS", writer.description(alone=True)))
    else:
        lines.append(("IMPRESSION", writer.summary(alone=True)))
    if layout == "plain":  # an impression without its heading, and nothing else
        lines = [("", lines[-1][1])]
    body_text = [(heading, _finished(rng, text)) for heading, text in lines]
    return "\n".join(f"{heading}: {text}" if heading else text for heading, text in body_text)


@dataclass
class _Writer:
    """Writes one report."""

    rng: np.random.Generator
    body: Body
    findings: tuple[Finding, ...]
    before: tuple[Finding, ...] | None

    def __post_init__(self) -> None:
        self.style = "full" if self.rng.random() < 0.6 else "short"
        self.labels = {finding.label for finding in self.findings}
        # One decision a report, so that its sections agree.
        self.is_loose = self.rng.random() < LOOSE
        self.doubted = {
            finding.label
            for finding in self.findings
            if finding.label in _CAN_BE_DOUBTED and finding.size in (None, "small") and self.rng.random() < DOUBTED
        }

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def choose(self, options: Sequence[str]) -> str:
        return options[int(self.rng.random() * len(options))]

    def say(self, options: Sequence[str], words: Mapping[str, str] | None = None) -> str:
        """One of the phrases, its choices made and its words filled in."""
        text = self.choose(options)
        while "[" in text:
            start = text.index("[")
            end = text.index("]", start)
            text = text[:start] + self.choose(text[start + 1 : end].split("|")) + text[end + 1 :]
        for key, word in (words or {}).items():
            text = text.replace("{" + key + "}", word)
        return " ".join(text.split())

    # ---- sections ----------------------------------------------------------------------------------------------------
    def preamble(self, view: str) -> list[tuple[str, str]]:
        """Indication, technique and comparison, each in some of the reports."""
        words, lines = phrases(), []
        sex = _PATIENT[self.body.sex]
        if self.chance(0.4):
            person = self.say([f"[{self.body.age}-year-old|{self.body.age} year old] [{'|'.join(sex)}]"])
            lines.append(("INDICATION", f"{person} with {self.choose(words['complaints'])}."))
        elif self.chance(0.3):
            lines.append(("HISTORY", _sentence(self.choose(words["complaints"]))))
        if self.chance(0.2):
            lines.append((self.choose(("TECHNIQUE", "EXAM")), _sentence(self.say(words["technique"][view]))))
        if self.chance(0.3 if self.before is None else 0.6):
            lines.append(("COMPARISON", _sentence(self.say(words["no_prior" if self.before is None else "prior"]))))
        return lines

    def description(self, *, alone: bool) -> str:
        """The findings: what is there, what is not, what is normal, in an order that differs; alone without an impression."""
        words = phrases()
        order = self.rng.permutation(len(self.findings))
        positive = [self.finding_sentence(self.findings[index], strict=alone) for index in order] + self.resolutions()
        negative = self.denials()
        negative += [
            self.say(words[part]) for part, share in (("mediastinum", 0.3), ("other", 0.12)) if self.chance(share)
        ]
        incidental = self.incidentals()
        if not incidental and self.chance(0.4):
            negative.append(self.say(words["bones"]))
        negative = [negative[index] for index in self.rng.permutation(len(negative))]
        blocks = [positive, negative, incidental] if self.chance(0.7) else [negative, positive, incidental]
        return " ".join(_sentence(text) for block in blocks for text in block)

    def summary(self, *, alone: bool) -> str:
        """The impression; alone it names every finding, and denies some, else it may leave out a device."""
        words = phrases()["impression"]
        shown = [f for f in self.findings if alone or f.label != "Support Devices" or self.chance(0.5)]
        items = [self.finding_sentence(shown[i], strict=True, summary=True) for i in self.rng.permutation(len(shown))]
        for finding in shown:
            if finding.label in words and self.chance(0.15):
                items.append(self.say(words[finding.label]))
        if not self.labels - {"Support Devices"}:
            items.append(self.say(words["normal"]))
        elif self.labels <= {"Support Devices", "Cardiomegaly"} and self.chance(0.5):
            items.append(self.say(words["chronic"]))
        if self.before is not None and set(self.findings) == set(self.before) and self.chance(0.4):
            items.append(self.say(words["unchanged"]))
        if alone:
            items += self.denials() + (self.incidentals() if self.chance(0.3) else [])
        if len(items) > 1 and self.chance(0.35):
            return " ".join(f"{number}. {_sentence(text)}" for number, text in enumerate(items, 1))
        return " ".join(map(_sentence, items))

    # ---- sentences ---------------------------------------------------------------------------------------------------
    def finding_sentence(self, finding: Finding, *, strict: bool, summary: bool = False) -> str:
        """A finding in a sentence; strict: by a word that names it alone."""
        words = phrases()
        row = words["findings"][finding.label]
        style = "short" if summary else self.style
        filling = self.filling(finding, style)
        # The nouns.
        nouns = row["nouns"]
        if finding.side == "bilateral" and "bilateral" in row:
            nouns = row["bilateral"]
        elif finding.label == "Consolidation" and (self.is_loose or (not strict and self.chance(0.35))):
            nouns = row["loose"]
        elif finding.size == "large" and "large" in row and self.chance(0.6):
            nouns = row["large"]
        article = self.say(nouns, filling)
        noun = re.sub(r"^an? ", "", article)
        article = re.sub(r"^a (?=[aeiou])", "an ", article)
        many = "effusions" in noun
        filling |= {"np": noun, "a": article, "is": "are" if many else "is", "has": "have" if many else "has"}
        # The sentence around them: in doubt, beside the study before, or on its own.
        if finding.label in self.doubted:
            return self.say(words["hedged"], filling)
        change = self.change(finding)
        if change and self.chance(0.6):
            return self.say(words[change], filling)
        own = row.get("both" if finding.side == "bilateral" and "both" in row else style, ())
        is_own = not (self.is_loose and finding.label == "Consolidation") and not (
            summary and finding.side == "bilateral"
        )
        if own and is_own and nouns is not row.get("loose") and self.chance(0.4):
            return self.say(own, filling)
        return self.say(words["present"][style], filling)

    def filling(self, finding: Finding, style: str) -> dict[str, str]:
        """The words of a finding's place and degree."""
        words = phrases()
        side, filling = finding.side or "", {"side": finding.side or ""}
        if finding.size:
            row = words["findings"][finding.label]
            if "degrees" in row:
                filling["deg"] = self.choose(words["degrees"][row["degrees"]][finding.size])
            filling["adv"] = self.choose(words["adverbs"][finding.size])
            filling["cm"] = str(_DIAMETER[finding.size])
        if finding.location:
            zone = self.say(words["zones"][finding.location], {"side": side})
            if style == "short" and self.chance(0.2):
                zone = side[0].upper() + _SHORT_ZONE[finding.location]
            filling["zone"] = zone
        return filling

    def change(self, finding: Finding) -> str | None:
        """The change of a finding since the study before; None where there is none."""
        if self.before is None:
            return None
        earlier = next((other for other in self.before if other.label == finding.label), None)
        if earlier is None:
            return "new"
        if earlier.size == finding.size or None in (earlier.size, finding.size):
            return "same"
        return "larger" if SIZES.index(finding.size or "") > SIZES.index(earlier.size or "") else "smaller"

    def resolutions(self) -> list[str]:
        """Sentences about findings that the study before had, and this one has not."""
        gone = [finding.label for finding in self.before or () if finding.label not in self.labels]
        said = phrases()["resolved"]
        return [self.say(said[label]) for label in gone if label in said and self.chance(0.6)]

    def denials(self) -> list[str]:
        """Sentences about what is absent: most of it in one list, the heart and vessels in sentences of their own."""
        words = phrases()
        absent = [label for label in words["absent"] if label not in self.labels]
        listed = [label for label in absent if self.chance(_DENIED.get(label, 0.05))]
        listed = [listed[index] for index in self.rng.permutation(len(listed))]
        terms = [self.choose(words["absent"][label]) for label in listed]
        result = []
        is_clear = not self.labels & _LUNG
        if terms:
            # In one list or two.
            cut = int(self.rng.integers(1, len(terms))) if len(terms) > 1 and self.chance(0.3) else len(terms)
            for part in filter(None, (terms[:cut], terms[cut:])):
                is_said = is_clear and self.chance(0.25)  # that the lungs are clear, once
                options = words["clear_list"] if is_said else words["denials"][self.style]
                is_clear = is_clear and not is_said
                result.append(self.say(options, {"list": self.say([_listed(part)])}))
        if is_clear and self.chance(0.5):
            result.append(self.say(words["clear"]))
        elif len(self.labels & _LUNG) == 1 and self.chance(0.12):
            result.append(self.say(words["otherwise"]))
        # The heart and the vessels in one sentence or two.
        normal = dict(words["normal"])
        both = normal.pop("heart and vessels")
        if not self.labels & {"Cardiomegaly", "Edema"} and "Edema" not in listed and self.chance(0.3):
            result.append(self.say(both))
            del normal["Cardiomegaly"], normal["Edema"]
        for label, options in normal.items():
            share = {"Cardiomegaly": 0.85, "Edema": 0.3, "Pleural Effusion": 0.08}.get(label, 0.04)
            if label not in self.labels and label not in listed and self.chance(share):
                result.append(self.say(options))
        return result

    def incidentals(self) -> list[str]:
        """Statements about what nothing draws, and about the body where it is so."""
        said, body = phrases()["incidental"], self.body
        depth = 0.5 * (body.dome_left + body.dome_right)  # to which the patient breathed in
        shares = {
            "anywhere": 0.15,
            "old": 0.4 if body.age > 55 else 0.05,
            "thin_bone": 0.35 if body.bone < 0.85 else 0.0,
            "unfolded": 0.4 if body.unfolding > 0.5 else 0.0,
            "bent": 0.25 if body.kyphosis > 0.14 else 0.0,
            "low": 0.5 if depth < 0.38 and "Atelectasis" not in self.labels else 0.0,
            "high": 0.4 if depth > 0.51 else 0.0,
        }
        return [self.say(said[name]) for name, share in shares.items() if self.chance(share)]


def _listed(terms: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b, or c``."""
    if len(terms) < 3:
        return " or ".join(terms)
    return f"{', '.join(terms[:-1])}, or {terms[-1]}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _finished(rng: np.random.Generator, text: str) -> str:
    """A section as it is typed: in lower case, or with a letter astray, in a few."""
    if rng.random() < MISSPELT:
        words = [word for word in re.findall(r"[a-z]+", text) if word in set(phrases()["may_be_misspelt"])]
        if words:
            word = words[int(rng.integers(len(words)))]
            at = int(rng.integers(1, len(word) - 2))
            # Two letters change places, or one is missing.
            wrong = (
                word[:at] + word[at + 1] + word[at] + word[at + 2 :]
                if rng.random() < 0.5
                else word[:at] + word[at + 1 :]
            )
            text = text.replace(word, wrong, 1)
    return text.lower() if rng.random() < LOWER_CASE else text
