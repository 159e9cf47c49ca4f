"""Planners: find the actions whose imagined outcome costs least. The model arrives as the callable `imagine`."""
