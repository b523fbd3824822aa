"""``medcodi fit``: from a folder of studies to a trained and evaluated model, in one resumable job."""
