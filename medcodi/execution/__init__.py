"""How a model runs: precision, layout, compilation, attention kernels, and where its weights rest; never what it computes."""

from medcodi.execution.settings import ExecutionConfig

__all__ = ["ExecutionConfig"]
