"""Power of a design: simulated reader studies, analysed by the statistics of the analysis."""
