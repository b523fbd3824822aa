"""Train the finding classifier: python eval/train_classifier.py --config configs/eval/classifier.yaml [key=value ...]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medcodi.config import load, to_yaml
from medcodi.errors import MedCoDiError
from medcodi.evaluation.annotators.classifier_training import ClassifierTrainConfig, ceiling_table, train_classifier


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, print the ceilings. Exit code 2 for an error of the user's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/eval/classifier.yaml")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("overrides", nargs="*", help="key=value")
    given = parser.parse_args(arguments)
    try:
        options = load(ClassifierTrainConfig, given.config, given.overrides)
        if given.print_config:
            print(to_yaml(options), end="")
            return 0
        print(ceiling_table(train_classifier(options)))
        return 0
    except MedCoDiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
