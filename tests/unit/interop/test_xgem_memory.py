"""An import holds one tensor at a time: its memory does not grow with the checkpoint, nor with its largest component."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.golden.xgem.weights import HERE
from tests.unit.interop.published import MINI, published_shapes, sparse_checkpoint

# In a process of its own: the peak of its resident memory, mapped files included, before and after the large import.
MEASURED = """
import json, resource, sys
from pathlib import Path
from medcodi.interop.xgem import import_xgem
from medcodi.interop.xgem_layout import LayoutConfig
from tests.unit.interop.published import MINI, MINI_LAYOUT, published_shapes, sparse_checkpoint

work = Path(sys.argv[1])
layout = LayoutConfig(**MINI_LAYOUT)
small = sparse_checkpoint(work / "small.safetensors", published_shapes(MINI))
import_xgem(small, work / "small", layout=layout)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = import_xgem(work / "large.safetensors", work / "large", layout=layout)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sizes = [path.stat().st_size for path in done.folder.glob("*.safetensors")]
print(json.dumps({"grown": (after - before) * 1024, "largest": max(sizes), "all": sum(sizes)}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in KiB on Linux only")
def test_peak_memory_is_far_below_the_largest_component(tmp_path) -> None:
    sizes = replace(
        MINI, channels=40, multipliers=(1, 2, 4, 4), num_res_blocks=2, attention_levels=(0, 1, 2), positions=4
    )
    sparse_checkpoint(tmp_path / "large.safetensors", published_shapes(sizes))
    code = [sys.executable, "-c", MEASURED, str(tmp_path)]
    ran = subprocess.run(code, cwd=HERE.parents[2], capture_output=True, text=True, check=True)
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen["largest"] > 100e6 and seen["all"] > 250e6
    assert seen["grown"] < 0.3 * seen["largest"], seen
