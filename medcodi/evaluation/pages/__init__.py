"""Pages of an evaluation: self-contained HTML, made of the results and of what was generated."""
