"""Planners find the actions whose imagined result has the lowest cost. The model arrives as the callable `imagine`."""
