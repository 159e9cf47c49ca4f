"""Runnable setups, one small file each: dataclasses only, no logic."""
