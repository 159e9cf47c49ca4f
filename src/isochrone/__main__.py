"""python -m isochrone."""

from isochrone.cli import main

main()
