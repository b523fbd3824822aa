"""The commands of ``medcodi``, one module for each or for a few that belong together."""
