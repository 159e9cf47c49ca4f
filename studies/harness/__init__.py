"""Runs studies: cells in processes, one small JSON per cell, pages of evidence from these files."""
