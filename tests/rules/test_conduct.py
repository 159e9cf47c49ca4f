"""What the library never does: bend a gradient by hand, print, unpickle, seed a global generator, read a clock."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from tree import Source, calls, dotted, library, source

BENT = {"detach", "detach_", "requires_grad_"}
PICKLED = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
SEEDS = {"torch.manual_seed", "torch.seed", "random.seed", "np.random.seed", "numpy.random.seed"}
CLOCKS = {
    f"time.{name}" for name in ("time", "perf_counter", "monotonic", "process_time", "time_ns", "perf_counter_ns")
}
GRADLESS = {"no_grad", "inference_mode", "set_grad_enabled", "enable_grad"}
RUNS = {"training", "recipes", "workflows", "cli"}  # where a run begins: these may seed, and read the clock


def _gradients(file: Source) -> Iterator[str]:
    if file.name == "core/gradient.py":
        return
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Attribute) and node.attr in BENT:
            yield f"{node.lineno}: .{node.attr} outside core/gradient.py; use one of its four tools"
        if isinstance(node, ast.Attribute) and node.attr == "requires_grad" and isinstance(node.ctx, ast.Store):
            yield f"{node.lineno}: requires_grad is set outside core/gradient.py; use no_parameter_grad or EMA"
        if isinstance(node, ast.FunctionDef) and any(dotted(d).split(".")[-1] == "loss" for d in node.decorator_list):
            for name, call in calls(node):
                if name.split(".")[-1] in GRADLESS:
                    yield f"{call.lineno}: {name} inside the loss {node.name}; use without_grad(fn, why)"
    for name, call in calls(file.tree):
        if name.split(".")[-1] in ("stop_gradient", "without_grad"):
            why = call.args[1] if len(call.args) > 1 else next((k.value for k in call.keywords if k.arg == "why"), None)
            if not (isinstance(why, ast.Constant) and isinstance(why.value, str) and why.value.strip()):
                yield f"{call.lineno}: {name}(x, why) needs its reason as a literal text"


def _pickles(file: Source) -> Iterator[str]:
    for node in ast.walk(file.tree):
        heads: list[str] = []
        if isinstance(node, ast.Import):
            heads = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            heads = [node.module or ""]
        for head in heads:
            if head.split(".")[0] in PICKLED:
                yield f"{head} is imported: nothing here is ever unpickled"
    for name, call in calls(file.tree):
        if name in ("torch.load", "torch.save", "eval", "exec"):
            yield f"{call.lineno}: {name}: write safetensors, JSON or npy"
        if any(k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
               for k in call.keywords):  # fmt: skip
            yield f"{call.lineno}: {name} with allow_pickle"


def _globals(file: Source) -> Iterator[str]:
    for name, call in calls(file.tree):
        if name == "print" and file.layer != "cli":
            yield f"{call.lineno}: print outside cli; return it, or write it to a sink"
        if file.layer in RUNS:
            continue
        if name in SEEDS:
            yield f"{call.lineno}: {name}: take a torch.Generator as an argument"
        if name in CLOCKS:
            yield f"{call.lineno}: {name}: take the time, or the clock, as an argument"


def offences(file: Source) -> list[str]:
    """One line per forbidden act, with its line number."""
    return [f"{file.name}:{line}" for check in (_gradients, _pickles, _globals) for line in check(file)]


def test_no_file_does_what_the_library_never_does() -> None:
    assert [line for file in library() for line in offences(file)] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("models/a.py", "y = x.detach()"),
        ("models/a.py", "f = torch.Tensor.detach"),
        ("models/a.py", "net.requires_grad_(False)"),
        ("models/a.py", "p.requires_grad = False"),
        ("models/a.py", "stop_gradient(x)"),
        ("models/a.py", "stop_gradient(x, '')"),
        ("models/a.py", "without_grad(f, why=reason)"),
        ("models/a.py", "gradient.stop_gradient(x, f'{y}')"),
        ("losses/a.py", "@loss('a')\ndef a(model):\n    with torch.no_grad():\n        pass"),
        ("models/a.py", "print(1)"),
        ("training/a.py", "print(1)"),
        ("training/a.py", "torch.load(path)"),
        ("data/a.py", "import pickle"),
        ("data/a.py", "from joblib import load"),
        ("data/a.py", "np.load(path, allow_pickle=True)"),
        ("nets/a.py", "torch.manual_seed(0)"),
        ("planners/a.py", "start = time.perf_counter()"),
    ],
)
def test_the_checker_sees_it(name: str, text: str) -> None:
    assert len(offences(source(name, text))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core/gradient.py", "x.detach()"),
        ("models/a.py", "stop_gradient(x, 'the encoder is the teacher')"),
        ("models/a.py", "stop_gradient(x, why='the target must not chase')"),
        ("models/a.py", "@torch.no_grad()\ndef imagine(self):\n    return 1"),
        ("cli/plan.py", "print(1)"),
        ("training/loop.py", "self.clock.stop()\nself.stop()\ntime.perf_counter()"),
        ("evals/a.py", "def seconds(clock=time.perf_counter):\n    return clock()"),
        ("data/a.py", "np.load(path, mmap_mode='r', allow_pickle=False)"),
    ],
)
def test_the_checker_lets_other_code_pass(name: str, text: str) -> None:
    assert offences(source(name, text)) == []
