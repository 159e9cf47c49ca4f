"""Runnable configurations, one file per family: dataclasses only, no logic."""
