"""The table of metrics: every row has a table and a direction, and names with an extractor have the row of their first part."""

from __future__ import annotations

from medcodi.evaluation.scoring.metrics import METRIC_GROUPS, METRICS, PRIMARY, metric_row


def test_every_metric_is_complete() -> None:
    assert PRIMARY in METRICS
    for metric in METRICS.values():
        assert metric.title and metric.table in ("findings", "images", "reports", "coherence", "records", "obedience")
        assert metric.better in ("up", "down", "")
    assert {kind for group in METRIC_GROUPS.values() for kind in group} == {"image", "text", "table"}


def test_an_extractor_does_not_change_the_row() -> None:
    assert metric_row("frechet/xrv") is METRICS["frechet"] and metric_row("frechet").better == "down"
    assert (metric_row("new/one").title, metric_row("new/one").table, metric_row("new/one").better) == (
        "new/one",
        "other",
        "",
    )
