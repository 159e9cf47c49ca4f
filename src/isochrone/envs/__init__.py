"""Environments: the white box with ground truth, and adapters from and to Gymnasium."""
