"""Studies: grids of trainings behind the published numbers. What is measured lies under studies/NAME of the clone."""
