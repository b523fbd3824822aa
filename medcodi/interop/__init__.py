"""Weights that others published, brought into our layout."""
