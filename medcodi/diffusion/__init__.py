"""Noise, prompts, guidance and joint sampling: equations as functions of tensors, without networks."""
