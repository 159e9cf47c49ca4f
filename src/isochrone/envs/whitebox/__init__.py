"""The white-box environment: maps, physics, pixels and ground truth."""

from isochrone.envs.whitebox.env import WhiteBox
from isochrone.envs.whitebox.state import BoxState, TaskState, WhiteBoxConfig

__all__ = ["BoxState", "TaskState", "WhiteBoxConfig", "WhiteBox"]
