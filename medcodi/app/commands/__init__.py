"""The commands, a module for each group; importing this package registers them all, in the order of ``--help``."""

from medcodi.app.commands import (  # noqa: I001
    machine,  # noqa: F401
    generating,  # noqa: F401
    synthesizing,  # noqa: F401
    training,  # noqa: F401
    plotting,  # noqa: F401
    caching,  # noqa: F401
    judging,  # noqa: F401
    importing,  # noqa: F401
    turing,  # noqa: F401
    turing_analysis,  # noqa: F401
)
