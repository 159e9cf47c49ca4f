"""Agents: what acts. A planner inside a model (mpc), and the floors (random, noop, replay)."""
