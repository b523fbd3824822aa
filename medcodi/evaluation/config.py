"""The configuration of an evaluation: systems, held-out studies, annotators, metrics and where the bundle is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from medcodi.config import Count, at_least, config
from medcodi.data.loading import DataConfig
from medcodi.errors import ConfigError, one_of
from medcodi.evaluation.annotators.features import EXTRACTORS
from medcodi.evaluation.annotators.image_annotators import IMAGE_ANNOTATORS
from medcodi.evaluation.annotators.report_annotators import LABELERS, REPORT_SCORERS
from medcodi.evaluation.scoring.groups import parse_bands
from medcodi.evaluation.scoring.metrics import METRIC_GROUPS
from medcodi.modality import MODALITIES, STANDARD, in_table_order, modality
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig, WeakModelConfig, read_old_names
from medcodi.storage.names import stays_inside
from medcodi.study import Direction, all_directions

UNCONDITIONAL = Direction((), STANDARD)
STANDARD_SET = "standard"  # name of the twelve directions and the unconditional one


def directions_with(name: str, modalities: Sequence[str] = STANDARD) -> tuple[Direction, ...]:
    """The documented directions of a modality that is not standard, such as the record: ten beside the standard three.

    It prompts each of the others alone, and each image beside the text; it is the target of each of the others alone, and of all of
    them; and it prompts all of them at once.
    """
    others = tuple(other for other in in_table_order(modalities) if MODALITIES[other].standard)
    images, texts = (tuple(other for other in others if MODALITIES[other].kind == kind) for kind in ("image", "text"))
    directions = [Direction((name,), (other,)) for other in others]
    directions += [Direction((name, text), (image,)) for text in texts for image in images]
    directions += [Direction((other,), (name,)) for other in others]
    return tuple(dict.fromkeys([*directions, Direction(others, (name,)), Direction((name,), others)]))


def default_directions(modalities: Sequence[str] = STANDARD) -> tuple[Direction, ...]:
    """Every direction among the standard modalities and the unconditional one, and the documented ones of each other modality."""
    standard = tuple(name for name in in_table_order(modalities) if MODALITIES[name].standard)
    further = [name for name in in_table_order(modalities) if name not in standard]
    more = [direction for name in further for direction in directions_with(name, standard)]
    return (*all_directions(standard), Direction((), standard), *more)


def named_directions(text: str) -> tuple[Direction, ...]:
    """A direction, or those of a set: ``standard``, or the name of a modality that is not standard (``record``).

    Raises:
        PromptError: If it is none of these.
    """
    if text == STANDARD_SET:
        return default_directions()
    if "->" in text.replace("→", "->") or modality(text).standard:
        return (Direction.parse(text),)
    return directions_with(text)


@config
class ScoringConfig:
    """How annotations become figures."""

    # groups of metrics: keys of `METRIC_GROUPS`
    metrics: tuple[str, ...] = (
        "frechet", "kernel", "prdc", "diversity", "similarity", "findings", "text", "coherence", "records", "obedience",
        "subgroups",
    )  # fmt: skip
    bootstrap_samples: Annotated[int, at_least(100)] = 1000  # resamples of each interval
    # At most this many resamples for a Fréchet distance's interval, because each needs an eigendecomposition. Below
    # 100 there is no interval.
    frechet_samples: Count = 200
    permutations: Annotated[int, at_least(100)] = 2000  # at most this many per paired test
    min_positives: Count = 5  # a finding counts if at least this many scored studies truly have it
    # Meaning of a blank label in a study that has others: `absent`, as in CheXpert's tables, or `unknown`, if
    # labels are incomplete. Uncertain labels (-1) are left out either way.
    unmentioned: Literal["absent", "unknown"] = "absent"
    # size of the subsets that the kernel distance is also averaged over
    kernel_subset: Annotated[int, at_least(2)] = 1000
    kernel_subsets: Count = 100  # number of these subsets
    neighbours: Count = 5  # k of precision, recall, density and coverage
    diversity_pairs: Count = 100  # number of pairs for MS-SSIM
    # fields of the records whose groups are crossed, numbers with the width of their bands; where studies have records
    subgroup_by: tuple[str, ...] = ("sex", "age:20")
    subgroup_studies: Annotated[int, at_least(2)] = 20  # a smaller group is left out
    seed: int = 0  # of resamples, derangements, pairs and subsets; in an evaluation, also of generation and pictures

    def __post_init__(self) -> None:
        for group in self.metrics:
            one_of("group of metrics", group, METRIC_GROUPS, ConfigError)
        for text in self.subgroup_by:
            parse_bands(text)


@config
class EvaluateConfig(ScoringConfig):
    """Systems, studies and annotators of an evaluation; :class:`ScoringConfig` has the rest."""

    recipes: ClassVar[str] = "eval"  # folder of configs/ with recipes for this config

    data: DataConfig  # the held-out studies
    # folder or hub name; None: the shipped demo, or no model if other systems' output is evaluated
    model: str | None = None
    # name -> folder or CSV of what another system generated for the same studies
    systems: dict[str, str] = field(default_factory=dict)
    name: str | None = None  # the model's name in tables; None: its own
    num_studies: Annotated[int, at_least(8)] | None = None  # only the first this many; None: as `data` says
    # such as `"report->frontal"`; `standard`: all 12 and unconditional; `record`: its ten (docs/EVALUATION.md). None: those of
    # every modality that the model has (of other systems: all that they have)
    directions: tuple[str, ...] | None = None
    # of features, for Fréchet and kernel distances, precision, recall, density, coverage
    extractors: tuple[str, ...] = ("demo",)
    # name -> file or folder of its weights, if not where its library stores them
    extractor_weights: dict[str, str] = field(default_factory=dict)
    extractor_sha256: dict[str, str] = field(default_factory=dict)  # name -> required hash of its weights
    download: bool = False  # whether published weights of extractors may be fetched
    # annotates findings in images: `demo`, our finding classifier (the shipped one knows phantoms only), or
    # `xrv`, for frontals
    image_reader: str = "demo"
    labeler: str = "rules"  # annotates findings in reports: `rules`, ours, or `chexbert`
    report_scorers: tuple[str, ...] = ()  # of pairs of reports, by radeval: `radgraph`, `ratescore`
    # folder of the finding classifier; None: the model's own folder if it has one, else the demo's (for phantoms)
    classifier: str | None = None
    batch_size: Count = 32  # studies per shard: generated and annotated together, by one rank
    # draws of each study in directions of which records are the only target: their spread is judged
    record_draws: Count = 8
    preset: str | None = None  # sampler and steps under one name; values given beside it win
    num_inference_steps: int | None = None  # None: the preset's, or the model's own
    guidance_scale: float | None = None  # over the prompts; None: the model's own
    environment_guidance_scale: float | None = None  # over hearing each other; None: the model's own
    sampler: str | None = None  # None: the preset's, or the model's own
    order: str | None = None  # of several targets: `joint`, `staggered`, `chained`; None: the model's own
    # of staggered and chained: the targets, first to last; further modalities are passed over
    sequence: tuple[str, ...] | None = None
    lag: int | None = None  # of staggered: steps by which a target follows the one before it
    # several orders, each a system of its own in the tables; after the first, only directions of several targets
    orders: tuple[str, ...] = ()
    joint: bool = True  # False: targets generated together do not hear each other (an ablation)
    # guidance by a weaker model, of what nothing prompts; None: without
    weak: Annotated[WeakModelConfig | None, Field(exclude_if=lambda value: value is None)] = None
    # how the model runs: precision, layout, kernels, offload; what may change digits is recorded in the results
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    out: str = "runs/evaluation"  # folder of the bundle
    cache: str | None = None  # folder of cached features; None: `features` in `out`
    # number of random and of worst studies shown per direction; 0: the page shows no study
    pictures: Annotated[int, at_least(0)] = 2
    meteor: bool = True  # False leaves METEOR out
    exclude_unreadable: bool = False  # list unreadable studies and files as excluded and go on; else they stop the run
    device: str | None = None  # None: a GPU if there is one
    resume: bool = True  # reuse shards in `out` that were generated with the same model, prompts and settings
    # anything a reader must know of the protocol: split, sections, resolution, N
    notes: dict[str, str] = field(default_factory=dict)

    _old_names = model_validator(mode="before")(read_old_names)

    def __post_init__(self) -> None:
        # The base class's check; pydantic's dataclasses rebuild the class, so that super() without arguments fails.
        ScoringConfig.__post_init__(self)
        # Every name that stands for a row of a table.
        for extractor in (*self.extractors, *self.extractor_weights, *self.extractor_sha256):
            one_of("feature extractor", extractor, EXTRACTORS, ConfigError)
        one_of("image_reader", self.image_reader, IMAGE_ANNOTATORS, ConfigError)
        one_of("labeler", self.labeler, LABELERS, ConfigError)
        for scorer in self.report_scorers:
            one_of("report scorer", scorer, REPORT_SCORERS, ConfigError)
        # Refuse unknown presets, samplers and orders, and a sequence that lacks a target.
        for generation in self.generations.values():
            for direction in self.model_directions():
                generation.sequence_of(direction.targets)
        if self.orders:
            self._check_orders()
        # A system's name is also the name of its folder.
        for name in self.systems:
            if not stays_inside(name):
                raise ValueError(f"{name!r} is an invalid name of a system, because it names a folder too")

    def _check_orders(self) -> None:
        """Refuse orders that make no table."""
        if not self.evaluates_model:
            raise ValueError("orders are of a model, and only other systems' output is evaluated: name the model too")
        if len(set(self.orders)) < len(self.orders) or self.order is not None:
            raise ValueError(
                f"orders {list(self.orders)} and order {self.order}: give each order once, or one order alone"
            )
        if all(len(direction.targets) < 2 for direction in self.model_directions()):
            raise ValueError(
                "orders of directions of one target each: add a direction of several, such as report->frontal+lateral"
            )

    @property
    def evaluates_model(self) -> bool:
        """Whether a model generates; if other systems are evaluated, only a model that is named does."""
        return self.model is not None or not self.systems

    @property
    def requested_directions(self) -> tuple[Direction, ...] | None:
        """The directions that are named, or None."""
        if self.directions is None:
            return None
        return tuple(dict.fromkeys(direction for text in self.directions for direction in named_directions(text)))

    def model_directions(self, modalities: Sequence[str] = STANDARD) -> tuple[Direction, ...]:
        """The directions that a model of these modalities generates."""
        requested = self.requested_directions
        return default_directions(modalities) if requested is None else requested

    @property
    def generation(self) -> GenerationConfig:
        """How a model samples."""
        return GenerationConfig.from_fields(self)

    @property
    def generations(self) -> dict[str, GenerationConfig]:
        """How a model samples in each of ``orders``; without any, under ``""`` how it samples in its one order."""
        return {order: self.generation.ordered(order) for order in self.orders} or {"": self.generation}

    @property
    def scoring(self) -> ScoringConfig:
        """The part that scoring depends on."""
        names = [field.name for field in fields(ScoringConfig)]  # type: ignore[arg-type]
        return ScoringConfig(**{name: getattr(self, name) for name in names})
