"""Agents choose actions: model-predictive control (mpc), and the baselines that use no model."""
