"""``medcodi utility``, ``audit``, ``card``, ``verify-mark``, ``sign-mark``: are synthetic studies useful, private and marked, and what is a model."""
