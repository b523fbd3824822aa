"""Studies in: sources, images, reports, preparation, and the batches that training reads."""
