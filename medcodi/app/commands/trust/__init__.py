"""``medcodi utility``, ``audit`` and ``card``: whether synthetic studies are useful, private, and what a model is."""
