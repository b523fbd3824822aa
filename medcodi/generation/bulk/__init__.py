"""Long lists of requests: :mod:`streaming` yields results in order; :mod:`job` reads a manifest and fills a folder."""
