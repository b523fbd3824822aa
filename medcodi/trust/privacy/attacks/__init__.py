"""The attacks: each measures scores of studies by a model, and computes figures from these scores alone."""
