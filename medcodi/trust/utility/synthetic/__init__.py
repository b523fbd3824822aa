"""Synthetic studies: prompts for a model, and reading what a model or anybody generated."""
