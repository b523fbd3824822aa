# ---
# jupyter:
#   jupytext: {formats: "ipynb,py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # First look
#
# A chest examination has a frontal film, a lateral film, a report, and sometimes a record. Any of them may be the prompt, any of the others
# is generated. The shipped model knows *phantoms*, computed bodies, and no patient: what you see shows how it works, and nothing about real
# films.

# %%
import tempfile
from pathlib import Path

import medcodi

OUT = Path(tempfile.mkdtemp(prefix="medcodi-first-look-"))
STEPS = 8  # of the sampler; the model's own number, 20, takes longer and draws better

# %% [markdown]
# ## From a report, both films
#
# Targets that are generated together show one patient: what is finished becomes a prompt of what follows.

# %%
both = medcodi.generate(
    "Large left pleural effusion. No pneumothorax.", targets=["frontal", "lateral"], num_inference_steps=STEPS
)
print(both)
both.frontal

# %%
both.lateral

# %% [markdown]
# ## Back again: what does the model report about the film that it drew?

# %%
report = medcodi.generate({"frontal": both.frontal}, targets=["report"], num_inference_steps=STEPS).report
print(report)

# %% [markdown]
# ## From nothing, a patient; then the same patient with a pneumothorax

# %%
patient = medcodi.generate({}, targets=["frontal", "report"], seed=1, num_inference_steps=STEPS)
print(patient.report)
patient.frontal

# %%
edited = medcodi.edit(
    {"frontal": patient.images["frontal"], "report": patient.report},
    "Large right pneumothorax.",
    num_inference_steps=STEPS,
)
print(edited.report)
edited.frontal

# %% [markdown]
# ## A sample depends on its seed alone
#
# Not on the number of samples, nor on their order: sample 1 of two is the sample of seed 1.

# %%
two = medcodi.generate("Cardiomegaly.", targets=["frontal"], num_samples=2, num_inference_steps=STEPS)
one = medcodi.generate("Cardiomegaly.", targets=["frontal"], seed=1, num_inference_steps=STEPS)
difference = abs(two.samples[1].contents["frontal"] - one.images["frontal"]).max()
print(f"largest difference of a pixel: {difference:.1e}")
assert difference < 1e-4

# %% [markdown]
# ## Files
#
# Films, report, and `provenance.json`: model, hashes of the prompts, seed, settings, versions; everything that makes it again.

# %%
edited.save(OUT / "edited")
for file in sorted((OUT / "edited").iterdir()):
    print(file.name, file.stat().st_size, "bytes")

# %% [markdown]
# Next: `own_folder.py` (a model of your own studies), `judge_any_system.py` (how good is a generator?).
