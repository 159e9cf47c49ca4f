"""isochrone: world models whose geometry you can plan in."""

from isochrone.core.gradient import EMA, frozen, stop_gradient
from isochrone.losses.routes import check_routes

__version__ = "0.1.0"
__all__ = ["EMA", "__version__", "check_routes", "frozen", "stop_gradient"]
