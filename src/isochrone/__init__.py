"""isochrone: world models whose geometry you can plan in. The functions below are documented in docs/python.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isochrone.core.gradient import EMA, frozen, stop_gradient
    from isochrone.losses.routes import check_routes
    from isochrone.workflows.api import evaluate, load, plan, train

__version__ = "0.1.0"
__all__ = ["EMA", "__version__", "check_routes", "evaluate", "frozen", "load", "plan", "stop_gradient", "train"]
_MODULES = {
    "EMA": "core.gradient",
    "frozen": "core.gradient",
    "stop_gradient": "core.gradient",
    "check_routes": "losses.routes",
    "evaluate": "workflows.api",
    "load": "workflows.api",
    "plan": "workflows.api",
    "train": "workflows.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import isochrone` alone does not import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'isochrone' has no attribute '{name}'")
    return getattr(import_module(f"isochrone.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
