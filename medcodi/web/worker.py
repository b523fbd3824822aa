"""The worker of a page: generate or edit, read the findings of what was given and made, lay both out for the viewer."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medcodi.data.domain import PHANTOM, Domain
from medcodi.data.image_files import read_image
from medcodi.data.images import fit_square
from medcodi.errors import DomainWarning
from medcodi.generation.domain import OUTSIDE
from medcodi.generation.editing import STRENGTH, edit
from medcodi.generation.pipeline import generate, load
from medcodi.generation.result import Generation
from medcodi.metrics.labeler import label_report
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS, Content, content_text, finding_words
from medcodi.web.config import ServeConfig
from medcodi.web.jobs import OnStep
from medcodi.web.requests import EditRequest, GenerateRequest, Outcome, Panel
from medcodi.web.sessions import Session

if TYPE_CHECKING:
    from medcodi.evaluation.annotators.image_annotators import ImageAnnotator
    from medcodi.model import MedCoDi

VIEWED = 1024  # pixels of the longer side at which a film that was given is shown; the model sees its own size


class Worker:
    """The model and the annotator, used by the one worker thread alone."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self._model: MedCoDi | None = None
        self._annotator: ImageAnnotator | None = None

    @property
    def model(self) -> MedCoDi:
        """The model, loaded when it is first used."""
        if self._model is None:
            self._model = load(self.config.model, self.config.device)
            self._annotator = self._load_annotator(self._model)
        return self._model

    def warm_up(self, on_step: OnStep) -> None:
        """Load everything, take one step of every target, and read its findings, so that nobody's first picture waits for it."""
        on_step(0, 1)  # ends here where the server was stopped meanwhile
        generation = generate(
            {}, self.model.config.modalities, model=self.model, num_inference_steps=1, order="joint", on_step=on_step
        )
        # The annotator's weights are loaded at its first film.
        for name, value in generation.samples[0].contents.items():
            self._findings(name, value)

    def generate(self, session: Session, request: GenerateRequest, on_step: OnStep) -> Outcome:
        """Generate, and lay out prompts and samples side by side."""
        settings = request.settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DomainWarning)  # they are among the notes
            generation = generate(
                request.prompts,
                request.targets,
                model=self.model,
                num_samples=request.num_samples,
                weights=request.weights,
                preset=settings.preset,
                guidance_scale=settings.guidance_scale,
                num_inference_steps=settings.num_inference_steps,
                order=settings.order,
                seed=settings.seed,
                on_step=on_step,
            )
        key = secrets.token_urlsafe(16)
        # The prompts first, films as they were given; then sample after sample.
        panels = [
            self._panel(session, key, "Prompt", name, self._seen(name, value))
            for name, value in request.prompts.items()
        ]
        # An examination to edit: what was given, and the first sample.
        contents = {name: value for name, value in request.prompts.items() if MODALITIES[name].kind != "table"}
        for number, sample in enumerate(generation.samples, start=1):
            slot = "Generated" if len(generation.samples) == 1 else f"Sample {number}"
            for name, value in sample.contents.items():
                panels.append(self._panel(session, key, slot, name, value, origin="synthetic"))
                if number == 1 and MODALITIES[name].kind != "table":
                    contents[name] = _content(session, panels[-1])
        session.keep("generate", key, generation)
        return Outcome(key=key, panels=panels, notes=list(_notes(generation)), contents=contents)

    def edit(self, session: Session, request: EditRequest, on_step: OnStep) -> Outcome:
        """Edit, and lay out each film before and after, with the difference beside it, then the reports."""
        settings = request.settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DomainWarning)
            generation = edit(
                request.study,
                request.statements,
                model=self.model,
                strength=STRENGTH if request.strength is None else request.strength,
                preset=settings.preset,
                guidance_scale=settings.guidance_scale,
                num_inference_steps=settings.num_inference_steps,
                seed=settings.seed,
                on_step=on_step,
            )
        key, size = secrets.token_urlsafe(16), self.model.config.image_size
        panels, contents = [], {}
        for name, after in generation.samples[0].contents.items():
            if not isinstance(after, np.ndarray):
                panels += [
                    self._panel(session, key, slot, name, text)
                    for slot, text in (("Before", request.study[name]), ("After", after))
                ]
                contents[name] = after
                continue
            before = fit_square(read_image(request.study[name]), size)
            panel = self._panel(session, key, "Before | after", name, after, origin="synthetic")
            contents[name] = _content(session, panel)
            old, new = self._findings(name, before), panel["note"]
            panel |= {"before": session.film(key, before), "after": panel.pop("film")}
            panel["note"] = f"Before: {old.removeprefix('Read: ')} After: {new.removeprefix('Read: ')}" if old else ""
            difference = self._panel(session, key, "Difference", name, 0.5 + (after - before) / 2, read=False)
            panels += [panel, difference | {"note": "Mid-grey: unchanged."}]
        session.keep("edit", key, generation)
        return Outcome(key=key, panels=panels, notes=list(_notes(generation)), contents=contents)

    def _seen(self, name: str, value: Any) -> Content:
        """A prompt as it is shown: a film reduced to the viewer's size, its shape kept."""
        if MODALITIES[name].kind != "image":
            return value
        image = read_image(value)
        height, width = image.shape
        longest = max(height, width)
        if longest <= VIEWED:
            return image
        square = fit_square(image, VIEWED)
        rows, columns = (max(1, round(side * VIEWED / longest)) for side in (height, width))
        top, left = (VIEWED - rows) // 2, (VIEWED - columns) // 2
        return square[top : top + rows, left : left + columns]

    def _panel(
        self,
        session: Session,
        key: str,
        slot: str,
        name: str,
        value: Content,
        *,
        origin: str | None = None,
        read: bool = True,
    ) -> Panel:
        """One panel of the viewer, with the findings that an annotator reads in it."""
        panel: Panel = {"slot": slot, "title": MODALITIES[name].title, "name": name}
        panel["note"] = self._findings(name, value) if read else ""
        if isinstance(value, np.ndarray):
            return panel | {"kind": "image", "film": session.film(key, value, origin=origin)}
        return panel | {"kind": "text", "text": content_text(value) or ""}

    def _findings(self, name: str, value: Content) -> str:
        """A sentence of the findings that are read in a content; "" where nothing reads it."""
        if isinstance(value, str):
            findings = [
                finding
                for finding in label_report(value)
                if finding.state != "negative" and finding.label != "No Finding"
            ]
            words = [
                ("possible " if finding.state == "uncertain" else "") + finding_words(finding) for finding in findings
            ]
        elif isinstance(value, np.ndarray) and self._annotator is not None and self._annotator.reads(name):
            words = _words_of_film(self._annotator, name, value)
        else:
            return ""
        return f"Read: {', '.join(dict.fromkeys(words)) or 'no finding'}."

    def _load_annotator(self, model: MedCoDi) -> ImageAnnotator | None:
        """The one that is configured; without, the demo's for a model of phantoms, and none for other films."""
        from medcodi.evaluation.annotators.image_annotators import load_image_annotator

        name, domain = self.config.annotator, Domain.of(model.provenance)
        if name is None and (domain is None or domain.origin != PHANTOM):
            return None
        return load_image_annotator(name or "demo", device=model.device)


def _words_of_film(annotator: ImageAnnotator, name: str, image: np.ndarray) -> list[str]:
    """Findings that an annotator recognises in a film and judges well enough, with their sides: ``"left Pleural Effusion"``."""
    from medcodi.evaluation.annotators.image_annotators import findings_from_probabilities

    targets = annotator.targets
    probabilities = annotator.annotate([image], name)[:, : len(targets)]  # [1, K]
    labels, sides = findings_from_probabilities(
        targets, annotator.thresholds(name), annotator.judged(name), probabilities
    )
    present = [
        label for label, value in zip(CHEXPERT_LABELS, labels[0], strict=True) if value == 1 and label != "No Finding"
    ]
    sided: dict[str, list[str]] = {}
    for finding in sides[0]:
        sided.setdefault(finding.label, []).append(finding.side or "")
    return [
        " ".join([*(["bilateral"] if len(sided.get(label, ())) == 2 else sided.get(label, [])), label])
        for label in present
    ]


def _content(session: Session, panel: Panel) -> Any:
    """The content of a panel as a prompt: the path of its film, or its text."""
    return session.film_path(panel["film"]) if panel["kind"] == "image" else panel["text"]


def _notes(generation: Generation) -> Iterator[str]:
    """Sentences to know of a result: where the model is outside its domain, what it has not read, and what the result is not."""
    provenance = generation.provenance
    yield from provenance.get(OUTSIDE, ())
    cuts: Sequence[tuple[str, Any]] = [
        (name, prompt.get("truncated")) for name, prompt in provenance["prompts"].items()
    ]
    for name, cut in [*cuts, ("new report", provenance.get("edit", {}).get("truncated"))]:
        if cut:
            yield f"{cut['read_tokens']} of {cut['tokens']} tokens of the {name} were read, which is all that this model reads"
    yield provenance["notice"].rstrip(".")
