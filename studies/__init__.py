"""The grids behind the published numbers, one folder each, and the harness that runs them: `python -m studies`."""
