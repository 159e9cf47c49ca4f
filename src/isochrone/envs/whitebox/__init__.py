"""The white-box world: maps, physics, pixels and the truth about them."""

from isochrone.envs.whitebox.env import WhiteBox
from isochrone.envs.whitebox.state import BoxState, TaskState, WhiteBoxConfig

__all__ = ["BoxState", "TaskState", "WhiteBoxConfig", "WhiteBox"]
