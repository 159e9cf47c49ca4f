"""The white-box world: maps, physics, pixels and the truth about them."""

from isochrone.envs.whitebox.state import BoxState, WhiteBoxConfig
from isochrone.envs.whitebox.world import WhiteBoxWorld

__all__ = ["BoxState", "WhiteBoxConfig", "WhiteBoxWorld"]
