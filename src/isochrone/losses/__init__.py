"""Losses: pure functions of a rollout, each with a declaration of the weights that it may move."""
