"""Annotators of generated and real contents: findings, features, geometry, scores of pairs of reports."""
