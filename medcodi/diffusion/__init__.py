"""Noise, prompts, guidance and joint sampling: the equations, as functions of tensors; no network is known here."""
