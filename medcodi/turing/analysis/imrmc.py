"""Export for iMRMC, the FDA's program for multi-reader multi-case studies: one text file for each task with scores."""

from __future__ import annotations

import numpy as np

from medcodi.turing.answers.table import TaskAnswers


def imrmc_text(answers: TaskAnswers, arm: str = "generated") -> str:
    """The input file (``.imrmc``): cases of ``arm`` are the positive ones; a higher score means rather generated.

    Rows are ``reader,case,modality,score``; rows with reader -1 and modality 0 hold the truth. Choices are scored by signed confidence
    (without confidence -1 and 1), ratings by their negative: what is rated low counts as generated. Every item is a case of its own,
    since a case has one truth there; the export therefore knows nothing of pairs.
    """
    rated = answers.kind.answer == "rating"
    if rated:
        scores = -answers.matrix("rating")
    else:
        confidence = answers.matrix("confidence")
        scores = (2 * answers.says_generated - 1) * np.where(np.isfinite(confidence), confidence, 1.0)
    items = [i for i, one in enumerate(answers.arm) if one in ("real", arm) and np.isfinite(scores[:, i]).any()]
    positive = [i for i in items if answers.arm[i] == arm]
    lines = [
        f"Visual Turing Test, task {answers.task}: real against {arm}",
        f"NR: {len(answers.readers)}",
        f"N0: {len(items) - len(positive)}",
        f"N1: {len(positive)}",
        "NM: 1",
        "BEGIN DATA:",
    ]
    names = answers.items
    lines += [f"-1,{_field(names[i])},0,{int(answers.arm[i] == arm)}" for i in items]
    for r, reader in enumerate(answers.readers):
        lines += [
            f"{_field(reader)},{_field(names[i])},{_field(answers.task)},{scores[r, i]:g}"
            for i in items
            if np.isfinite(scores[r, i])
        ]
    return "\n".join(lines) + "\n"


def _field(text: str) -> str:
    """Commas part fields there."""
    return text.replace(",", "_").replace(" ", "_")
