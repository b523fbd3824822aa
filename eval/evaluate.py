"""Evaluate a model, direction by direction: python eval/evaluate.py --config configs/eval/demo.yaml [key=value ...].

On several GPUs or processes: torchrun --nproc-per-node 4 eval/evaluate.py --config configs/eval/demo.yaml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medcodi.app.commands.evaluate import evaluate_and_print
from medcodi.config import load, to_yaml
from medcodi.distributed import printed_elsewhere
from medcodi.errors import MedCoDiError
from medcodi.evaluation.config import EvaluateConfig


def main(arguments: list[str] | None = None) -> int:
    """Parse, evaluate, print what ``medcodi evaluate`` prints. Exit code 2 for an error of the user's."""
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
        evaluate_and_print(options)
    except MedCoDiError as error:
        if not printed_elsewhere(error):
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. What is finished stays: the same command resumes.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
