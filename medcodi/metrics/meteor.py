"""METEOR's Java program, kept open, asked many lines at a time, closed in the end."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.metrics.bootstrap import Statistic

_LINES = 64  # that METEOR is given at once: what it answers must fit a pipe, or both would wait for each other


def open_meteor(java: str) -> Any:
    """Pycocoevalcap's METEOR, on a given Java, that can be closed."""
    from pycocoevalcap.meteor import meteor

    class ClosableMeteor(meteor.Meteor):
        def __init__(self) -> None:
            command = [
                java,
                "-Xmx2G",
                "-Dfile.encoding=UTF-8",
                "-jar",
                meteor.METEOR_JAR,
                "-",
                "-",
                "-stdio",
                "-l",
                "en",
                "-norm",
            ]
            self.lock = threading.Lock()
            self.meteor_p = subprocess.Popen(
                command,
                cwd=Path(meteor.__file__).parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )

        def statistic(self, targets: Sequence[str], hypotheses: Sequence[str]) -> Statistic:
            """METEOR of a weighted set: the program's own match counts per study, summed, given back to it for the score."""
            lines = [
                " ||| ".join(("SCORE", target, hypothesis.replace("|||", "").replace("  ", " ")))
                for hypothesis, target in zip(hypotheses, targets, strict=True)
            ]
            with self.lock:
                told = [
                    one
                    for start in range(0, len(lines), _LINES)
                    for one in self._answers(lines[start : start + _LINES])
                ]
            counts = np.array([one.split() for one in told], dtype=np.float64)
            whole = (counts[:, 20] == 1) & (counts[:, 21] == counts[:, 0]) & (counts[:, 22] == counts[:, 1])
            counts[whole, 20] = 0  # as METEOR adds them up: a text matched in one piece is not fragmented

            def statistic(weights: np.ndarray) -> np.ndarray:
                rows = weights @ counts
                with self.lock:
                    parts = [self._evaluated(rows[start : start + _LINES]) for start in range(0, len(rows), _LINES)]
                return np.concatenate(parts)

            return statistic

        def _answers(self, lines: Sequence[str]) -> list[str]:
            """One line of each question: all are asked before the first answer is read, so the program never waits."""
            assert self.meteor_p.stdin is not None and self.meteor_p.stdout is not None
            self.meteor_p.stdin.write(("\n".join(lines) + "\n").encode())
            self.meteor_p.stdin.flush()
            return [self.meteor_p.stdout.readline().decode() for _ in lines]

        def _evaluated(self, rows: np.ndarray) -> np.ndarray:
            """Scores of rows of counts, and behind them that of all together, which is dropped."""
            assert self.meteor_p.stdin is not None and self.meteor_p.stdout is not None
            told = " ||| ".join(" ".join(repr(float(count)) for count in row) for row in rows)
            self.meteor_p.stdin.write(f"EVAL ||| {told}\n".encode())
            self.meteor_p.stdin.flush()
            scores = [float(self.meteor_p.stdout.readline()) for _ in range(len(rows) + 1)]
            return np.array(scores[:-1])

        def close(self) -> None:
            assert self.meteor_p.stdin is not None and self.meteor_p.stdout is not None
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
