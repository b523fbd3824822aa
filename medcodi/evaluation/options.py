"""What an evaluation is told."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Annotated

from medcodi.config import Count, at_least, config
from medcodi.data.loading import DataConfig
from medcodi.errors import ConfigError, one_of
from medcodi.evaluation.annotators.features import EXTRACTORS
from medcodi.evaluation.annotators.image_annotators import IMAGE_ANNOTATORS
from medcodi.evaluation.annotators.report_labelers import LABELERS
from medcodi.evaluation.annotators.report_scorers import REPORT_SCORERS
from medcodi.evaluation.measures import GROUPS
from medcodi.evaluation.scores import ScoringOptions
from medcodi.modality import MODALITIES
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction, all_directions

UNCONDITIONAL = Direction((), tuple(MODALITIES))


@config
class EvaluateConfig(ScoringOptions):
    """What is evaluated, on what, and how; how figures are taken is in the attributes of :class:`ScoringOptions`.

    Attributes:
        model: Folder or hub name; None: the shipped demo, or no model where other systems' output is judged.
        systems: Name -> folder or CSV of what another system generated on the same studies.
        name: Of the model in tables; None: its own.
        data: The held-out studies.
        num_studies: The first so many of them; None: as ``data`` says.
        directions: Such as ``"report->frontal"``; None: all 12, and unconditional (of other systems: all that they have).
        extractors: Of features, for Fréchet and kernel distances, precision, recall, density, coverage.
        extractor_weights: Name -> file or folder of its weights, where they do not lie where their library keeps them.
        extractor_sha256: Name -> hash that they must have.
        download: Whether published weights of extractors may be fetched.
        image_reader: Reads findings from images: ``demo``, our finding classifier (the shipped one knows phantoms only), or ``xrv``, of
            frontals.
        labeler: Reads findings from reports: ``rules``, ours, or ``chexbert``.
        report_scorers: Of pairs of reports, by radeval: ``radgraph``, ``ratescore``.
        classifier: Folder of the finding classifier; None: the model's own folder, where one lies in it, else the demo's (of phantoms).
        batch_size: Studies of a block: generated and read together, by one rank.
        preset: Sampler and steps under one name; what is said beside it wins.
        num_inference_steps, guidance_scale, joint_guidance_scale, sampler: None: the preset's, or the model's own.
        joint: False: targets generated together do not hear each other (an ablation).
        execution: How the model generates: precision, layout, kernels, offload; what may change digits stands in the results.
        out: Folder of the bundle.
        cache: Folder of features kept by content; None: ``features`` in ``out``.
        pictures: Random and worst studies shown for each direction, so many of each; 0: no study is shown on the page.
        meteor: False leaves METEOR out.
        exclude_unreadable: List what cannot be read as excluded, and go on without it; else it stops the run.
        device: None: a GPU where there is one.
        resume: Blocks already in ``out``, made with the same model, prompts and settings, are not generated again.
        notes: Whatever a reader must know of the protocol: split, sections, resolution, N.
    """

    data: DataConfig
    model: str | None = None
    systems: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    num_studies: Annotated[int, at_least(8)] | None = None
    directions: tuple[str, ...] | None = None
    extractors: tuple[str, ...] = ("demo",)
    extractor_weights: dict[str, str] = field(default_factory=dict)
    extractor_sha256: dict[str, str] = field(default_factory=dict)
    download: bool = False
    image_reader: str = "demo"
    labeler: str = "rules"
    report_scorers: tuple[str, ...] = ()
    classifier: str | None = None
    batch_size: Count = 32
    preset: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    joint_guidance_scale: float | None = None
    sampler: str | None = None
    joint: bool = True
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    out: str = "runs/evaluation"
    cache: str | None = None
    pictures: Annotated[int, at_least(0)] = 2
    meteor: bool = True
    exclude_unreadable: bool = False
    device: str | None = None
    resume: bool = True
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for direction in self.directions or ():
            Direction.parse(direction)
        for group in self.metrics:
            one_of("group of metrics", group, GROUPS, ConfigError)
        for extractor in (*self.extractors, *self.extractor_weights, *self.extractor_sha256):
            one_of("feature extractor", extractor, EXTRACTORS, ConfigError)
        one_of("image_reader", self.image_reader, IMAGE_ANNOTATORS, ConfigError)
        one_of("labeler", self.labeler, LABELERS, ConfigError)
        for scorer in self.report_scorers:
            one_of("report scorer", scorer, REPORT_SCORERS, ConfigError)
        GenerationConfig.from_fields(self)
        for name in self.systems:
            if not name or name.startswith(".") or set(name) & set("/\\:"):
                raise ValueError(f"{name!r} cannot name a system, for it names a folder too")

    @property
    def judges_model(self) -> bool:
        """Whether a model generates; where other systems are judged, only one that was named."""
        return self.model is not None or not self.systems

    @property
    def asked_directions(self) -> tuple[Direction, ...] | None:
        """The directions that were named, or None."""
        return None if self.directions is None else tuple(Direction.parse(one) for one in self.directions)

    @property
    def chosen_directions(self) -> tuple[Direction, ...]:
        """The directions of a model."""
        asked = self.asked_directions
        return (*all_directions(), UNCONDITIONAL) if asked is None else asked

    @property
    def generation(self) -> GenerationConfig:
        """How the model samples."""
        return GenerationConfig.from_fields(self)

    @property
    def scoring(self) -> ScoringOptions:
        """How figures are taken."""
        names = [one.name for one in fields(ScoringOptions)]  # type: ignore[arg-type]
        return ScoringOptions(**{name: getattr(self, name) for name in names})
