"""One pure draw function per file: (arrays, theme) -> matplotlib Figure, or None when its arrays are not there."""
