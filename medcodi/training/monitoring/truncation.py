"""Reports that are longer than the networks read: counted at the start of a run, in its log and on its page."""

from __future__ import annotations

from typing import Any

from medcodi.modality import MODALITIES, names
from medcodi.model import MedCoDi
from medcodi.training.fresh_model import reports
from medcodi.training.monitoring.observer import Observer

NUM_STUDIES = 1000  # that are looked at; more change the share little


class TruncationObserver(Observer):
    """Logs once how many of the first studies' reports are read in part, as prompts and as targets."""

    def on_start(self) -> None:
        """Count, on the first rank of a run that starts; a resumed one has logged it."""
        if self.run.start_step or not self.run.ranks.is_first:
            return
        texts = [text for text in reports(self.run.studies, NUM_STUDIES) if text]
        lines = truncations(self.run.engine.stage.model, texts) if texts else []
        if lines:
            self.log.alerts(0, lines)


def truncations(model: MedCoDi, texts: list[str]) -> list[str]:
    """A sentence for each network that does not read all of the reports to their ends."""
    sentences = []
    if not set(names("text")) & set(model.config.modalities):
        return sentences
    # The text tower reads prompts, the autoencoder targets; each has its tokenizer and its length.
    tower = model.prompt_encoders.config.text.context_length
    autoencoder: Any = model.autoencoders[MODALITIES[names("text")[0]].kind]
    networks = (
        ("the text tower", tower, model.prompt_encoders.tokenizer),
        ("the report autoencoder", autoencoder.config.max_length, autoencoder.tokenizer),
    )
    for name, length, tokenizer in networks:
        if cut := sum(tokenizer.truncation(text, length) is not None for text in texts):
            sentences.append(
                f"{cut:,} of the first {len(texts):,} reports are longer than the {length} tokens that {name} reads: their ends are not learnt."
            )
    return sentences
