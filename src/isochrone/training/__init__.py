"""Training: one step, the loop around it, checkpoints, the run folder and the sinks."""
