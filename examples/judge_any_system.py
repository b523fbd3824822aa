# ---
# jupyter:
#   jupytext: {formats: "ipynb,py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Judge any system
#
# A generator need not be ours: a folder of its films suffices. Two "systems" stand for yours, so that the right verdict is known beforehand:
# `soft` returns the true film, blurred; `deaf` returns the film of another patient. A judge that cannot tell them apart is none.

# %%
import tempfile
from pathlib import Path

from PIL import Image, ImageFilter

from medcodi.data.images import save_png8
from medcodi.data.loading import DataConfig
from medcodi.evaluation import EvaluateConfig, evaluate, verify_bundle

OUT = Path(tempfile.mkdtemp(prefix="medcodi-judge-"))
DATA = DataConfig(
    source="phantom", split="test", num_studies=32, image_size=128
)  # yours: DataConfig(path="data/mine", split="test")

# %% [markdown]
# ## What they generated: `SYSTEM/DIRECTION/STUDY/frontal.png`
#
# The prompt was the report of each held-out study, the target its frontal film. Study ids are those of the dataset.

# %%
studies = DATA.build()
everyone = [studies[index] for index in range(len(studies))]
for study, other in zip(everyone, everyone[1:] + everyone[:1], strict=True):
    for system, film in (("soft", study.images["frontal"]), ("deaf", other.images["frontal"])):
        file = OUT / system / "report_to_frontal" / study.study_id / "frontal.png"
        file.parent.mkdir(parents=True)
        save_png8(film, file)
        if system == "soft":
            with Image.open(file) as picture:
                blurred = picture.filter(ImageFilter.GaussianBlur(0.7))
            blurred.save(file)

# %% [markdown]
# ## One protocol for all
#
# *Floor*: the same samples against other patients' truth. *Ceiling*: the same annotator on the real films.

# %%
results = evaluate(
    EvaluateConfig(
        data=DATA,
        systems={name: str(OUT / name) for name in ("soft", "deaf")},
        metrics=("findings", "similarity"),
        bootstrap_samples=200,
        pictures=1,
        out=str(OUT / "results"),
    ),
    quiet=True,
)

# %%
primary = {name: entry["directions"]["report->frontal"]["primary"] for name, entry in results["systems"].items()}
print(f"{'system':>8} {'macro F1':>9} {'floor':>6} {'ceiling':>8}  above its floor")
for name, figures in primary.items():
    value, floor = figures["model"]["value"], figures["shuffled"]["value"]
    print(f"{name:>8} {value:9.2f} {floor:6.2f} {figures['ceiling']:8.2f}  {figures['beats_shuffled']}")
assert primary["soft"]["beats_shuffled"] and not primary["deaf"]["beats_shuffled"]

# %% [markdown]
# ## Verify
#
# Every hash, and every figure computed again from the stored contents. Anybody who has the data can do that with your bundle.

# %%
check = verify_bundle(OUT / "results")
print(check)
print("The page:", OUT / "results/page.html")
