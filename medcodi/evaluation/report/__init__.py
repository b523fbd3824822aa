"""The report: tables and a self-contained HTML page, made from ``results.json`` and the contents that it shows."""
