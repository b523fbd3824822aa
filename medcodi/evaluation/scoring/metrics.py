"""The table of metrics: groups that a configuration names, and for each metric its title, table and better direction."""

from __future__ import annotations

from dataclasses import dataclass

from medcodi.modality import Kind

# Group of metrics -> kinds of targets that it scores; coherence is of pairs of targets. The last three are scored only where they are named.
METRIC_GROUPS: dict[str, tuple[Kind, ...]] = {
    "findings": ("image", "text"),
    "frechet": ("image",),
    "kernel": ("image",),
    "prdc": ("image",),  # precision, recall, density, coverage
    "diversity": ("image",),
    "similarity": ("image",),  # to the true image
    "text": ("text",),  # overlap with the true report
    "coherence": (),
    "records": ("table",),  # against the true record
    "obedience": ("image",),  # to a record that prompts
    "subgroups": ("image", "text"),  # metrics of findings by groups of patients
    "severity": ("image", "text"),  # F1 of findings weighted by urgency
    "alignment": ("image",),  # cosine with the report that prompts, in the shared latent space
    "by_finding": ("image",),  # distances among the studies with each finding
}


@dataclass(frozen=True)
class Metric:
    """One metric."""

    title: str  # for pages
    # which table of the page: findings, images, reports, coherence, records, obedience, other
    table: str
    better: str = "up"  # "up", "down"; "" if neither is better


METRICS: dict[str, Metric] = {
    "finding_macro_f1": Metric("finding F1, macro", "findings"),
    "finding_micro_f1": Metric("finding F1, micro", "findings"),
    "finding_auroc": Metric("finding AUROC", "findings"),
    "finding_auprc": Metric("finding AUPRC", "findings"),
    "side_accuracy": Metric("side right", "findings"),
    "finding_severity_f1": Metric("finding F1, weighted by urgency", "findings"),
    "frechet": Metric("Fréchet distance", "images", "down"),
    "kernel": Metric("kernel distance", "images", "down"),
    "precision": Metric("precision", "images"),
    "recall": Metric("recall", "images"),
    "density": Metric("density", "images"),
    "coverage": Metric("coverage", "images"),
    "alignment": Metric("cosine with the report that prompts", "images"),
    "ms_ssim": Metric("MS-SSIM between patients", "images", ""),
    "ssim": Metric("SSIM to the truth", "images"),
    "psnr": Metric("PSNR to the truth, dB", "images"),
    "bleu_1": Metric("BLEU-1", "reports"),
    "bleu_2": Metric("BLEU-2", "reports"),
    "bleu_3": Metric("BLEU-3", "reports"),
    "bleu_4": Metric("BLEU-4", "reports"),
    "rouge_l": Metric("ROUGE-L", "reports"),
    "meteor": Metric("METEOR", "reports"),
    "cider": Metric("CIDEr", "reports"),
    "prior_cited": Metric("share that cites a prior study", "reports", "down"),
    "finding_kappa": Metric("findings agree, κ", "coherence"),
    "finding_f1": Metric("findings agree, F1", "coherence"),
    "retrieval_median_rank": Metric("median rank of the partner", "coherence", "down"),
    "retrieval_recall_at_1": Metric("partner ranked first", "coherence"),
    "retrieval_recall_at_5": Metric("partner in the first 5", "coherence"),
    "retrieval_recall_at_10": Metric("partner in the first 10", "coherence"),
    "latent_similarity": Metric("cosine in the latent space", "coherence"),
    "geometry_correlation": Metric("bodies agree, correlation", "coherence"),
    "radgraph_simple": Metric("RadGraph F1, simple", "reports"),
    "radgraph_partial": Metric("RadGraph F1, partial", "reports"),
    "radgraph_complete": Metric("RadGraph F1, complete", "reports"),
    "ratescore": Metric("RaTEScore", "reports"),
    # Of each field of a record (`record_mae/age`), and of what a film shows of it.
    "record_mae": Metric("mean error", "records", "down"),
    "record_r2": Metric("R²", "records"),
    "record_r": Metric("correlation", "records"),
    "record_accuracy": Metric("accuracy", "records"),
    "record_auroc": Metric("AUROC", "records"),
    "record_coverage": Metric("truth within the draws", "records", ""),
    "record_spread": Metric("spread / error", "records", ""),
    "obedience_mae": Metric("mean error, shown", "obedience", "down"),
    "obedience_r2": Metric("R², shown", "obedience"),
    "obedience_r": Metric("correlation, shown", "obedience"),
    "obedience_accuracy": Metric("accuracy, shown", "obedience"),
    "obedience_auroc": Metric("AUROC, shown", "obedience"),
}

ALL_TARGETS = "all"  # in comparisons: the primary figure
PRIMARY = "finding_macro_f1"  # averaged over a direction's targets: the figure that decides


def metric_order(name: str) -> tuple[int, str]:
    """Key that sorts metrics, with or without an extractor, as the table has them."""
    return list(METRICS).index(name.partition("/")[0]), name


def metric_row(name: str) -> Metric:
    """A metric's row; ``frechet/xrv``, with an extractor, has the row of ``frechet``."""
    return METRICS.get(name.partition("/")[0], Metric(name, "other", ""))
