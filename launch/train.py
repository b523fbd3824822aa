"""Train one stage: the same file under python, torchrun, deepspeed and accelerate.

Without the repository: medcodi train, torchrun -m medcodi train, deepspeed --module medcodi train, with the same arguments.

    python launch/train.py --config configs/train/autoencode.yaml out=runs/autoencode
    torchrun --nproc_per_node 2 launch/train.py --config configs/train/diffuse.yaml
    deepspeed --num_accelerators 2 launch/train.py --config configs/train/diffuse.yaml engine.zero_stage=2

Any value of the config can be set as key=value, dotted if nested: optimizer.lr=2e-4.
--print-config prints the complete config and stops. A run that a signal, a crash or max_minutes stopped resumes with
--resume latest; its result is the same as without the interruption. The trained model is in OUT/model: give that folder
as init=… to the next stage (autoencode, align, diffuse, join).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medcodi.config import load, to_yaml
from medcodi.errors import ConfigError, MedCoDiError


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the key=value overrides left over."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --config FILE [--resume latest|PATH] [key=value ...]",
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="the run: a file, or a recipe (medcodi config list train)"
    )
    parser.add_argument(
        "--resume",
        metavar="latest|PATH",
        help="resume from the newest checkpoint in OUT, or from this one; latest without any starts from the beginning",
    )
    parser.add_argument("--print-config", action="store_true", help="print the config, overrides applied, and stop")
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS
    )  # added by launchers, which also set LOCAL_RANK
    options, overrides = parser.parse_known_args(arguments)
    wrong = [text for text in overrides if text.startswith("-")]
    if wrong:
        raise ConfigError(
            f"unknown option {wrong[0]!r}",
            expected="--config, --resume, --print-config or key=value",
            fix="see --help",
        )
    return options, overrides


def main(arguments: list[str]) -> int:
    """Run; 0 for success, 2 for an error of the user's, 3 for a failure that may not happen again if repeated."""
    try:
        options, overrides = parse(arguments)
        if options.local_rank is not None:
            os.environ.setdefault("LOCAL_RANK", str(options.local_rank))
        if os.environ.get("RANK", "0") == "0":  # the first sign of life: libraries take seconds to load
            print(f"Loading the run of {options.config} ...", file=sys.stderr, flush=True)
        from medcodi.training.config import TrainConfig

        config = load(TrainConfig, options.config, overrides)
        if options.print_config:
            print(to_yaml(config), end="")
            return 0
        config.check_inputs()
        from medcodi.training.loop import train

        train(config, options.resume)
    except MedCoDiError as error:
        from medcodi.distributed import printed_elsewhere

        if not printed_elsewhere(error):
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt as error:
        if not error.args and os.environ.get("RANK", "0") == "0":  # a run that was saved has said so
            print("Interrupted. The same command with --resume latest resumes.", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
