"""Used from Python, isochrone leaves the process as it found it, and is not disturbed by other threads of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tree import ROOT

from isochrone.training.config import TrainConfig
from isochrone.training.device import DrawFrom, compute_settings
from isochrone.training.learner import Learner
from isochrone.workflows import factory
from isochrone.workflows.dataset import fill_replay

VISIT = """
import json, locale, logging, os, random, signal, sys, warnings
import matplotlib, numpy as np, torch

def state():
    return {
        "threads": torch.get_num_threads(),
        "backend": matplotlib.get_backend(),
        "drawing": {k: str(v) for k, v in matplotlib.rcParams.items()},
        "random": [hash(random.getstate()), str(np.random.get_state()), torch.get_rng_state().tolist()],
        "warnings": [str(f) for f in warnings.filters],
        # torch names the folder of its compiler when that is first imported
        "environment": {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"},
        "signals": [str(signal.getsignal(s)) for s in sorted(signal.valid_signals())],
        "folder": os.getcwd(),
        "path": list(sys.path),
        "hooks": [str(sys.excepthook), str(sys.stdout), str(sys.stderr)],
        "logging": [logging.root.level, str(logging.root.handlers), logging.raiseExceptions],
        "locale": locale.setlocale(locale.LC_ALL),
        "torch": [torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
                  torch.utils.deterministic.fill_uninitialized_memory, torch.get_float32_matmul_precision()],
        "numpy": str(np.geterr()),
    }

matplotlib.use("svg")
torch.set_num_threads(3)
warnings.simplefilter("error", category=BytesWarning)
for seed in (random.seed, np.random.seed, torch.manual_seed):
    seed(5)
model = {"hidden": 16, "h": 8, "z": 8, "p": 8, "fourier": 8, "depth": 4, "open_loop": 2}
options = {"model": model, "train": {"batch": 4, "length": 6, "steps": 4, "log_every": 2, "eval_every": 2},
           "optim": {"model": {"warmup": 1}}, "data": {"num_envs": 8, "rows": 40},
           "eval": {"episodes": 4, "length": 16, "pairs": 4, "horizon": 4}}
import isochrone
from isochrone.workflows.report import report

visits = {
    "train": lambda: isochrone.train("tiny", "r", console=False, **options),
    "resume": lambda: isochrone.train(resume="r", console=False),
    "load": lambda: isochrone.load("r"),
    "evaluate": lambda: isochrone.evaluate("r"),
    "plan": lambda: isochrone.plan("r"),
    "report": lambda: report(__import__("pathlib").Path("r")),
}
changed = {}
for name, visit in visits.items():
    before = state()
    visit()
    after = state()
    changed[name] = {k: [str(before[k])[-300:], str(after[k])[-300:]] for k in before if before[k] != after[k]}
print(json.dumps(changed))
"""


@pytest.mark.slow
def test_every_function_leaves_the_process_as_it_found_it(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "OMP_NUM_THREADS")}
    words = [sys.executable, "-c", VISIT]
    done = subprocess.run(words, cwd=tmp_path, env={**env, "PYTHONPATH": str(ROOT / "src")}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    changed = json.loads(done.stdout.splitlines()[-1])
    assert set(changed) == {"train", "resume", "load", "evaluate", "plan", "report"}
    assert not any(changed.values()), changed


def made(seed: int, recipe: str = "tiny") -> dict[str, torch.Tensor]:
    config = factory.make_config(recipe, {"train.seed": str(seed)})
    return factory.make_learner(config, factory.spec_of(config)).state_dict()


def test_models_made_in_threads_are_those_made_one_after_the_other() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    alone = [made(seed) for seed in range(4)]
    with ThreadPoolExecutor(5) as threads:
        noise = threads.submit(lambda: [torch.rand(9) for _ in range(2000)])  # somebody else draws meanwhile
        together = list(threads.map(made, range(4)))
        noise.result()
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    torch.set_rng_state(before)
    expected = [torch.rand(9) for _ in range(3)]
    torch.set_rng_state(before)
    made(0)
    assert all(torch.equal(x, torch.rand(9)) for x in expected)


def test_weights_are_those_of_the_seeded_global_generator() -> None:
    """The seed of a published run must go on to mean the same weights."""
    config = factory.make_config("tiny", {"train.seed": "7"})
    spec = factory.spec_of(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = Learner({"model": factory.registry.get("model", "zhp")(config.model, spec)}).state_dict()
    found = made(7)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_random_operation_can_be_led_to_one_generator() -> None:
    def numbers() -> list[torch.Tensor]:
        weight = torch.empty(4, 6)
        made = [torch.rand(3), torch.randn(2, 2), torch.randint(9, (5,)), torch.randperm(7), torch.rand_like(weight)]
        made += [torch.bernoulli(torch.full((8,), 0.5)), torch.multinomial(torch.ones(5), 3)]
        made += [torch.normal(0.0, 1.0, (3,)), weight.exponential_().clone(), weight.random_().clone()]
        inits = [torch.nn.init.orthogonal_, torch.nn.init.kaiming_uniform_, torch.nn.init.trunc_normal_]
        return made + [init(weight).clone() for init in inits]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        expected = numbers()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with DrawFrom(torch.Generator().manual_seed(11)):
        found = numbers()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("threads", "strict"), [(1, False), (2, True)])
def test_compute_settings_are_put_back(threads: int, strict: bool) -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), compute_settings(TrainConfig(threads=threads, accelerator="cpu")):
        assert torch.get_num_threads() == threads
        assert torch.are_deterministic_algorithms_enabled() == strict
        raise KeyError
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.slow
def test_two_threads_give_the_same_bits_every_time() -> None:
    changes = {"train.threads": "2", "data.num_envs": "16", "data.rows": "80", "train.batch": "32"}
    config = factory.make_config("tiny", changes)
    spec = factory.spec_of(config)
    replay = fill_replay(config, None)
    objective = factory.make_objective(config, factory.make_learner(config, spec))
    batch = replay.sample(32, config.train.length, torch.Generator().manual_seed(0))
    weights = [p for p in objective.parameters() if p.requires_grad]
    with compute_settings(config.train):
        gradients = []
        for _ in range(6):
            loss, _ = objective(batch, torch.Generator().manual_seed(1))
            gradients.append(torch.autograd.grad(loss, weights, allow_unused=True))
    for found in gradients[1:]:
        assert all(a is None or torch.equal(a, b) for a, b in zip(gradients[0], found, strict=True))
