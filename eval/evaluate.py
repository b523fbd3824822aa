"""Evaluate a model, direction by direction: python eval/evaluate.py --config configs/eval/demo.yaml [key=value ...].

On several GPUs or processes: torchrun --nproc-per-node 4 eval/evaluate.py --config configs/eval/demo.yaml
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medcodi.config import load, to_yaml
from medcodi.errors import MedCoDiError
from medcodi.evaluation.matrix import EvaluateConfig, evaluate
from medcodi.evaluation.pages.summary import terminal_table
from medcodi.evaluation.pages.verdict import verdict


def main(arguments: list[str] | None = None) -> int:
    """Parse, evaluate, print the summary. Exit code 2 on a refusal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/eval/demo.yaml")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("overrides", nargs="*", help="key=value")
    given = parser.parse_args(arguments)
    try:
        options = load(EvaluateConfig, given.config, given.overrides)
        if given.print_config:
            print(to_yaml(options), end="")
            return 0
        results = evaluate(options)
    except MedCoDiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if int(os.environ.get("RANK", "0")):
        return 0
    columns, rows = terminal_table(results)
    for row in (columns, *rows):
        print("\t".join(cell.replace("\n", " ") for cell in row))
    print("\n".join(verdict(results)))
    print(f"{Path(options.out) / 'page.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
