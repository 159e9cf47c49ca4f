"""Measures (numbers), figures (pictures) and the report (the page). The three never share a function."""
