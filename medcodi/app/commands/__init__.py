"""The commands, one module for each or for a few that belong together; importing this package registers them."""

from importlib import import_module

# In the order of ``--help``. None imports torch before its command runs.
MODULES = (
    "demo",
    "doctor",
    "generate",
    "synthesize",
    "train",
    "evaluate",
    "parameters",
    "import_xgem",
    "data",
    "turing",
    "turing_analysis",
)
for _module in MODULES:
    import_module(f"{__name__}.{_module}")
