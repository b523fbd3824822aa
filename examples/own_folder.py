# ---
# jupyter:
#   jupytext: {formats: "ipynb,py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Your own folder
#
# From a table of studies to a trained and evaluated model. Set `TABLE` to a CSV of your own: one row a study, with a patient, paths of films,
# the report itself or its path. Here 32 phantoms are written as such a table, and the training is far too short to be good.

# %%
import csv
import os
import subprocess
import tempfile
from pathlib import Path

import rich

import medcodi
from medcodi.data.dataset import open_dataset
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sample import write_sample

OUT = Path(tempfile.mkdtemp(prefix="medcodi-own-folder-"))
TABLE = Path(os.environ.get("TABLE") or write_sample(OUT / "sample", 32))
MINUTES = "0.3"  # of the whole fit; leave --minutes out, and it is chosen by the studies and the machine

# %% [markdown]
# ## The table
#
# Columns are recognised by their names; `options.columns.report=COLUMN` names another one. Without a patient column preparation refuses: a
# patient in two splits would make every figure too good.

# %%
with TABLE.open(encoding="utf-8", newline="") as file:
    first = next(csv.DictReader(file))
for column, value in first.items():
    print(f"{column:>28}: {value[:70]}")

# %% [markdown]
# ## Prepare: every file is accounted for

# %%
ledger = prepare(PrepareConfig(source="csv", path=str(TABLE), out=str(OUT / "data"), image_size=64))
rich.print(ledger)

# %%
studies = open_dataset(OUT / "data", "train")
study = studies[0]
print(len(studies), "training studies; the first:", study.study_id, "of patient", study.patient_id)
print({name: getattr(value, "shape", value) for name, value in study.contents.items()})

# %% [markdown]
# ## Fit
#
# Prepares what is not prepared, chooses a size, trains the four stages, evaluates. Kill it at any moment: the same command resumes.

# %%
command = ["medcodi", "fit", str(OUT / "data"), "--out", str(OUT / "fit"), "--size", "tiny", "--minutes", MINUTES]
done = subprocess.run(command, capture_output=True, text=True, check=False)
print(done.stdout[-1500:], done.stderr[-1500:] if done.returncode else "")
assert done.returncode == 0

# %% [markdown]
# ## Use it
#
# A model of a few seconds draws noise. `fit/evaluation/page.html` says so, in figures between a floor and a ceiling.

# %%
out = medcodi.generate("No pneumothorax.", targets=["frontal"], model=OUT / "fit/model", num_inference_steps=4)
out.frontal

# %%
card = (OUT / "fit/model/README.md").read_text()  # what it was trained on, and the figures of its evaluation
print(card)
assert "| floor | ceiling |" in card
