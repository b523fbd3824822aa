"""Self-contained HTML pages and SVG charts: nothing is loaded from elsewhere."""
