"""Recorded experience: episodes, the replay ring, windows, collection and files of recordings."""
