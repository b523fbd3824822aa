"""Observers of a training run: metrics, validation, samples, trackers, alerts, throughput and the summary page."""
