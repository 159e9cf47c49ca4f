"""The white-box world: maps, physics, pixels and the truth about them."""

from isochrone.envs.whitebox.state import BoxState, TaskState, WhiteBoxConfig
from isochrone.envs.whitebox.world import WhiteBoxWorld

__all__ = ["BoxState", "TaskState", "WhiteBoxConfig", "WhiteBoxWorld"]
