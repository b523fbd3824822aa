"""``medcodi turing``: reader studies, from the bundle to the analysis."""
