"""Annotators: what reads generated and real contents: findings, features, geometry, scores of pairs of reports."""
