"""Training: the loop that knows no stage, the engines under it, and what makes a run survive being stopped."""
