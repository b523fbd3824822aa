"""The commands, a module for each group; importing this package registers them all, in the order of ``--help``."""

from medcodi.app.commands import (
    machine,
    generating,
    synthesizing,
    training,
    judging,
    importing,
    turing,
    turing_analysis,
)  # noqa: F401, I001
