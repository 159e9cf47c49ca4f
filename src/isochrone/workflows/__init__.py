"""What can be done with a run folder: train, evaluate, plan, report. The command line and the studies call these."""
