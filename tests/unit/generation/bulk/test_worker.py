"""One rank at work: prompts that are cut are counted and listed. Whole syntheses: test_job.py."""

import csv

from medcodi.generation.bulk.job import SynthesisConfig, synthesize
from medcodi.generation.bulk.manifest import RowDefaults
from medcodi.model import tiny_model
from medcodi.model.generation_config import GenerationConfig

CONFIG = SynthesisConfig(
    batch_size=2, generation=GenerationConfig(num_inference_steps=2), defaults=RowDefaults(targets=("frontal",))
)


def test_a_prompt_longer_than_the_model_reads_is_in_the_results(tmp_path):
    model = tiny_model(seed=0).eval()
    long = "Clear lungs and no effusion. " * 40
    (tmp_path / "manifest.csv").write_text(f"id,report\na,Clear.\nb,{long}\n")
    outcome = synthesize(tmp_path / "manifest.csv", tmp_path / "out", model=model, config=CONFIG)
    assert outcome.num_truncated == 1
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open(newline="")))
    room = model.config.prompt_encoders.text.context_length - 2
    (cut,) = [row["report_prompt_truncated"] for row in rows if row["id"] == "b"]
    assert cut.startswith(f"{room} of ") and cut.endswith(" tokens read")
    assert [row["report_prompt_truncated"] for row in rows if row["id"] == "a"] == [""]
