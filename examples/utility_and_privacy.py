# ---
# jupyter:
#   jupytext: {formats: "ipynb,py:percent"}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Useful? Private?
#
# Two questions about the shipped model, each at a size that takes seconds and therefore proves nothing: look at the form of the answer. The
# recipes `utility/small` and `audit/demo` ask them in earnest, in about an hour each.

# %%
import tempfile
from pathlib import Path

from medcodi.config import from_dict
from medcodi.trust.privacy import audit, verify_audit
from medcodi.trust.privacy.config import AuditConfig
from medcodi.trust.utility.config import UtilityConfig
from medcodi.trust.utility.job import run as run_utility

OUT = Path(tempfile.mkdtemp(prefix="medcodi-trust-"))

# %% [markdown]
# ## Is a synthetic study worth a real one?
#
# A table of *arms*, all trained for the same steps: a part of the real studies alone, with synthetic ones, with its own again (*duplicates*:
# the control of every claim that more studies help), with new real ones (*oracle*).

# %%
phantom = {"source": "phantom", "image_size": 32}
study = from_dict(
    UtilityConfig,
    {
        "train": {**phantom, "split": "train", "num_studies": 48},
        "validation": {**phantom, "split": "val", "num_studies": 24},
        "test": {**phantom, "split": "test", "num_studies": 48},
        "generators": {
            "demo": {"model": "demo", "direction": "report->frontal", "num_studies": 16, "preset": "faster"}
        },
        "arms": {
            "half": {"real": 0.5},
            "synthetic": {"real": 0.5, "add": "synthetic", "times": 0.5, "against": "half"},
            "duplicates": {"real": 0.5, "add": "duplicates", "times": 0.5, "against": "half"},
            "oracle": {"real": 0.5, "add": "oracle", "times": 0.5, "against": "half"},
        },
        "training": {"num_steps": 20, "batch_size": 16, "num_checks": 2, "warmup_steps": 2},
        "seeds": 1,
        "sampling_seeds": 1,
        "min_positives": 4,
        "bootstrap_samples": 100,
        "out": str(OUT / "utility"),
    },
)
results = run_utility(study)
tested = results["tests"]["test"]
for arm, figures in tested["arms"].items():
    auroc, rate = figures["macro"]["auroc"], tested["exchange"].get(arm, {}).get("value")
    print(f"{arm:>10}: AUROC {auroc['value']:.2f} [{auroc['low']:.2f}, {auroc['high']:.2f}], exchange rate {rate}")
print(*results["notes"], sep="\n")
print("The page:", OUT / "utility/page.html")

# %% [markdown]
# ## Does it disclose whom it was trained on?
#
# *Members* were trained on, *non-members* were not. The limits are declared before anything is measured; a limit that is not shown to hold
# makes the audit inconclusive, which is not "passed".

# %%
verdict = audit(
    from_dict(
        AuditConfig,
        {
            "model": "demo",
            "members": {"source": "phantom", "split": "train", "num_studies": 20, "image_size": 128},
            "non_members": {"source": "phantom", "split": "test", "num_studies": 20, "image_size": 128},
            "matching": "none",
            "directions": ["report->frontal"],
            "timesteps": [0.3],
            "num_inference_steps": 4,
            "resamples": 200,
            "controls": {"run": False},
            "out": str(OUT / "audit"),
        },
    ),
    quiet=True,
)["verdict"]
print(verdict["outcome"])
print(*verdict["lines"], sep="\n")
assert verdict["outcome"] != "passes"  # 20 studies and no controls show nothing

# %%
print(verify_audit(OUT / "audit"))

# %% [markdown]
# ## The card says what is known
#
# It takes the audit's section, and refuses that of another model. The header is for the hub.

# %%
from medcodi.model.card import model_card

print(model_card("demo", audit=OUT / "audit"))
