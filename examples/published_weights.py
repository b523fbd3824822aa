# ---
# jupyter:
#   jupytext: {formats: "ipynb,py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # The published weights
#
# The authors of MedCoDi-M (XGeM) publish one checkpoint file, a pickle. It is parsed, never executed, one tensor at a time, and every key is
# accounted for. Set `MEDCODI_M` to the file, and `VOCABULARIES` to a folder of `prompts.json` (CLIP), `report.json` (BERT, cased) and
# `decoder.json` (GPT-2). Without it a miniature of random weights in the same layout, from this repository's tests, stands for it.

# %%
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import medcodi

OUT = Path(tempfile.mkdtemp(prefix="medcodi-published-"))
FILE = Path(os.environ.get("MEDCODI_M") or OUT / "MedCoDi-M.pt")
options = ["--tokenizers", os.environ["VOCABULARIES"]] if "VOCABULARIES" in os.environ else []
if "MEDCODI_M" not in os.environ:
    import torch

    sys.path.insert(0, str(Path.cwd() if "__file__" not in globals() else Path(__file__).resolve().parents[1]))
    from tests.unit.interop.published import published_checkpoint

    torch.save(published_checkpoint(), FILE)
    # What the shapes of so small a file do not tell; the real one needs none of these.
    numbers = {"image-size": 32, "norm-groups": 4, "vae-norm-groups": 4, "num-heads": 2}
    numbers |= dict.fromkeys(("text-heads", "image-heads", "report-heads", "decoder-heads"), 2)
    options += [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
print(FILE, f"{FILE.stat().st_size / 2**20:.1f} MiB")

# %% [markdown]
# ## Import

# %%
command = ["medcodi", "import-xgem", str(FILE), str(OUT / "model"), *options]
done = subprocess.run(command, capture_output=True, text=True, check=False)
print(done.stdout[-1500:], done.stderr[-1500:] if done.returncode else "")
assert done.returncode == 0

# %% [markdown]
# ## What became of every key

# %%
report = json.loads((OUT / "model/import_report.json").read_text())
print(report["counts"])
assert report["counts"]["unknown"] == 0

# %% [markdown]
# ## Generate
#
# A model of another domain: it knows MIMIC-CXR, and its licence and use agreement hold. At full size add
# `execution=ExecutionConfig(precision="bfloat16", offload="cpu")`.

# %%
film = Image.fromarray((255 * np.linspace(0, 1, 64 * 64)).reshape(64, 64).astype(np.uint8))
out = medcodi.generate({"frontal": film}, targets=["lateral"], model=OUT / "model", num_inference_steps=3)
print(out)
out.lateral
