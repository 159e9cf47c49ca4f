"""Metrics, figures and the report. Each metric family declares its numbers beside the function that computes them."""
