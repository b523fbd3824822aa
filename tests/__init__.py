"""The tests, as a package of their own name: some libraries install one called `tests` too, and a folder alone would yield to it."""
