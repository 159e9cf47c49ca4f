"""File formats of recordings: one file here, one registered class. `data.source.open_format` finds them by suffix."""
