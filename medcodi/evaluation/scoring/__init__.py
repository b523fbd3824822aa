"""Scoring: annotations in, ``results.json`` out; no model, no image, no file is read here but the tables of annotations."""
