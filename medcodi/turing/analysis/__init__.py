"""Analysis of the answers: estimates, tests and equivalence of each task, their wording, and the report."""
