"""Before anything of isochrone is imported, every shape and type in its signatures becomes a check."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # latent-size tensors: a second thread costs more than it brings

from jaxtyping import config as checks  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Where tensors are; checks of the config, the registry and the command line would only take time.
CHECKED = ["agents", "data", "envs", "evals", "losses", "models", "nets", "planners", "training", "workflows"]
CHECKED += ["core.buffers", "core.gradient", "core.tensors", "core.types"]
install_import_hook([f"isochrone.{name}" for name in CHECKED], "shapecheck.check")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# The same examples every time: a change is judged by what it changes, not by the day's luck.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process waits at the end while the other runs a long file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _checks(request: pytest.FixtureRequest) -> None:
    """Slow tests run without the checks, which double the time of small steps; faster tests of the same code check."""
    checks.update("jaxtyping_disable", request.node.get_closest_marker("slow") is not None)


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded generator: randomness in tests is an argument too."""
    return torch.Generator().manual_seed(0)
