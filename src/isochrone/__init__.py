"""isochrone: world models whose geometry you can plan in."""

from isochrone.core.route import Slow, frozen, stop
from isochrone.objectives.contract import check_routes

__version__ = "0.1.0"
__all__ = ["Slow", "__version__", "check_routes", "frozen", "stop"]
