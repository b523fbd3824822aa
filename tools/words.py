"""Fail on words that a reader stumbles over: python tools/words.py [PATH ...] names file, line and replacement."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ("medcodi", "launch", "eval", "examples", "skills", "README.md", "CONTRIBUTING.md", "docs")
WORDS = {
    r"\btold\b": "the thing's name: metadata, results, requested; in prose: stated, named",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\blies? in\b": "is in, is stored in",
    r"\b(so many|so much)\b": "at most N, this number of",
    r"\b(go|goes|going|went) on (where|from|with)\b": "resume",
    r"\bcannot be[,.;:\"]": "is invalid",
    r"\bwhoever\b": "who, anyone who",
    r"\bin the place of\b": "instead of",
    r"\bstands? in (the|its|a|each|every)\b": "is in",
    r'"""(Of|What|Whoever|Where|Which) ': "a docstring starts with a noun or a verb",
}


def main(arguments: list[str]) -> int:
    """Print every hit; 1 if there is any."""
    hits = 0
    for argument in arguments or [str(ROOT / name) for name in DEFAULT]:
        path = Path(argument)
        files = [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.md")])
        for file in files:
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                for word, instead in WORDS.items():
                    if match := re.search(word, line, flags=0 if word.startswith('"') else re.IGNORECASE):
                        hits += 1
                        print(f"{file}:{number}: {match.group().strip()!r}. Fix: {instead}.")
    return int(hits > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
