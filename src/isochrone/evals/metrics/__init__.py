"""One file per family of metrics, with the question that it answers and its figures."""
