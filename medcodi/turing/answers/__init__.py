"""Answers of readers: one schema, the readers' result files, their import, and the table that is analysed."""
