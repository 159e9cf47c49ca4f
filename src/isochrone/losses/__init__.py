"""Losses. Each is a pure formula plus a wiring that declares which weights it may move."""
