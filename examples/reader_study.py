# ---
# jupyter:
#   jupytext: {formats: "ipynb,py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # A reader study in an afternoon
#
# Radiologists read real and generated films under equal conditions. Here the real arm is phantoms, the generated one the shipped model, and
# the readers are a script that answers in turns: the report at the end shows its form, and must find nothing. docs/TURING.md explains every
# step.

# %%
import json
import sys
import tempfile
from pathlib import Path

from medcodi.config import from_dict
from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.analysis.report import write_report
from medcodi.turing.answers.import_results import import_results
from medcodi.turing.answers.table import read_answers
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.design.config import ReaderStudyConfig, max_cases
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real
from medcodi.turing.lint.attack import lint_bundle

OUT = Path(tempfile.mkdtemp(prefix="medcodi-readers-"))

# %% [markdown]
# ## The study, and its margin
#
# The margin within which real and generated count as equal is declared now. Later is too late: it is part of the key, whose hash is in the
# bundle.

# %%
study = from_dict(
    ReaderStudyConfig,
    {
        "name": "afternoon",
        "title": "Reading chest examinations",
        "tasks": [
            {
                "id": "which",
                "kind": "real_or_generated",
                "modalities": ["frontal"],
                "prompts": ["report"],
                "num_items": 8,
                "repeats": 2,
            },
            {"id": "realism", "kind": "rating", "modalities": ["frontal"], "prompts": ["report"], "num_items": 6},
        ],
        "readers": 2,
        "image_size": 128,
        "blinding": {"crop": "none"},  # phantoms have no burnt-in letters
        "sampling": {"num_inference_steps": 8},
        "margins": {"which": 0.15, "realism": 0.5},
    },
)

# %% [markdown]
# ## Export: one archive for each reader, the key for the custodian

# %%
real = open_real("phantom", num_phantoms=max_cases(study), image_size=study.image_size, seed=study.seed)
generated = open_generated("demo", study.sampling, study.seed)
summary = export_bundle(study, real, generated, OUT / "bundle")
print(summary.num_items, "items;", sorted(path.name for path in (OUT / "bundle/readers").iterdir()))

# %% [markdown]
# ## Lint: attack the bundle before a reader does
#
# A leak is anything but the pictures that reveals the arm. A classifier that sees the pixels may separate them: so may a reader.

# %%
attacked = lint_bundle(OUT / "bundle", OUT / "bundle/custodian")
print(len(attacked.tested), "tests;", len(attacked.leaks), "leaks")
for leak in attacked.leaks:
    print(f"LEAK {leak.probe}: {leak.detail}. Fix: {leak.fix}.")

# %% [markdown]
# ## Reading
#
# Each reader unpacks an archive, opens `index.html`, reads, and sends back one JSON file. The script below stands for them.

# %%
sys.path.insert(0, str(Path.cwd() if "__file__" not in globals() else Path(__file__).resolve().parents[1]))
from tests.unit.turing.result_files import answered

files = []
for reader in ("reader-01", "reader-02"):
    files.append(OUT / f"{reader}.json")
    files[-1].write_text(json.dumps(answered(OUT / "bundle", reader)))

# %% [markdown]
# ## Import and analyse

# %%
import_results(files, OUT / "bundle/custodian", OUT / "table")
answers = read_answers(OUT / "table")
results = analyze(answers, num_resamples=400)
page = write_report(results, answers, OUT / "report")
print("The report:", page)

# %%
for line in (OUT / "report/methods.txt").read_text().splitlines()[:6]:
    print(line)
