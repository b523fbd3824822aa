"""What an evaluation is told."""

from __future__ import annotations

from dataclasses import field

from medcodi.config import config
from medcodi.data.loading import DataConfig
from medcodi.diffusion.presets import preset_of
from medcodi.errors import ConfigError, one_of
from medcodi.evaluation.extractor_rows import EXTRACTORS
from medcodi.evaluation.image_readers import IMAGE_READERS
from medcodi.evaluation.labelers import LABELERS
from medcodi.evaluation.measures import GROUPS
from medcodi.evaluation.report_scorers import REPORT_SCORERS
from medcodi.evaluation.scores import ScoringOptions
from medcodi.modality import MODALITIES
from medcodi.study import Direction, all_directions

UNCONDITIONAL = Direction((), tuple(MODALITIES))


@config
class EvaluateConfig:
    """What is evaluated, on what, and how.

    Attributes:
        model: Folder or hub name; None: the shipped demo, or no model where other systems' output is judged.
        systems: Name -> folder or CSV of what another system generated on the same studies.
        name: Of the model in tables; None: its own.
        data: The held-out studies.
        num_studies: The first so many of them; None: as ``data`` says.
        directions: Such as ``"report->frontal"``; None: all 12, and unconditional (of other systems: all that they have).
        metrics: Groups of metrics.
        extractors: Of features, for Fréchet and kernel distances, precision, recall, density, coverage.
        extractor_weights: Name -> file or folder of its weights, where they do not lie where their library keeps them.
        extractor_sha256: Name -> hash that they must have.
        download: Whether published weights of extractors may be fetched.
        image_reader: Reads findings from images: ``demo``, our finding classifier, or ``xrv``.
        labeler: Reads findings from reports: ``rules``, ours, or ``chexbert``.
        report_scorers: Of pairs of reports, by radeval: ``radgraph``, ``ratescore``.
        classifier: Folder of the finding classifier; None: the model's own folder, else the demo's.
        batch_size: Studies of a block: generated and read together, by one rank.
        preset: Sampler and steps under one name; what is said beside it wins.
        num_inference_steps, guidance_scale, sampler: None: the preset's, or the model's own.
        seed: Of generation, resamples, derangements, pairs and pictures.
        out: Folder of the bundle.
        cache: Folder of features kept by content; None: ``features`` in ``out``.
        bootstrap_samples: Resamples of each interval.
        permutations: Of each paired test, at most.
        min_positives: A finding counts where at least so many of the scored studies truly have it.
        kernel_subset, kernel_subsets: Samples and number of the subsets that the kernel distance is also taken over.
        neighbours: k of precision, recall, density and coverage.
        diversity_pairs: Pairs whose MS-SSIM is taken.
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
    num_studies: int | None = None
    directions: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ScoringOptions.metrics
    extractors: tuple[str, ...] = ("demo",)
    extractor_weights: dict[str, str] = field(default_factory=dict)
    extractor_sha256: dict[str, str] = field(default_factory=dict)
    download: bool = False
    image_reader: str = "demo"
    labeler: str = "rules"
    report_scorers: tuple[str, ...] = ()
    classifier: str | None = None
    batch_size: int = 32
    preset: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    seed: int = 0
    out: str = "runs/evaluation"
    cache: str | None = None
    bootstrap_samples: int = 1000
    permutations: int = 2000
    min_positives: int = 5
    kernel_subset: int = 1000
    kernel_subsets: int = 100
    neighbours: int = 5
    diversity_pairs: int = 100
    pictures: int = 2
    meteor: bool = True
    exclude_unreadable: bool = False
    device: str | None = None
    resume: bool = True
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {
            "batch_size": 1, "bootstrap_samples": 100, "permutations": 100, "min_positives": 1, "num_studies": 8,
            "kernel_subset": 2, "kernel_subsets": 1, "neighbours": 1, "diversity_pairs": 1, "pictures": 0,
        }  # fmt: skip
        for name, number in least.items():
            value = getattr(self, name)
            if value is not None and value < number:
                raise ValueError(f"{name} is {value}, must be at least {number}")
        for direction in self.directions or ():
            Direction.parse(direction)
        for group in self.metrics:
            one_of("group of metrics", group, GROUPS, ConfigError)
        for extractor in (*self.extractors, *self.extractor_weights, *self.extractor_sha256):
            one_of("feature extractor", extractor, EXTRACTORS, ConfigError)
        one_of("image reader", self.image_reader, IMAGE_READERS, ConfigError)
        one_of("labeler", self.labeler, LABELERS, ConfigError)
        for scorer in self.report_scorers:
            one_of("report scorer", scorer, REPORT_SCORERS, ConfigError)
        if self.preset is not None:
            preset_of(self.preset)
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
    def scoring(self) -> ScoringOptions:
        """How figures are taken."""
        names = (
            "bootstrap_samples", "min_positives", "seed", "metrics", "permutations", "kernel_subset", "kernel_subsets",
            "neighbours", "diversity_pairs",
        )  # fmt: skip
        return ScoringOptions(**{name: getattr(self, name) for name in names})
