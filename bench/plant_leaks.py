"""Plant leaks of gradient that groups of weights do not show, one at a time, and see who notices. Prints JSON.

    python bench/plant_leaks.py [--only NAME] [--no-tests] > bench/results/plant_leaks.json

Each leak is a small replacement in a temporary copy of `src`: a view or a belief that is stopped, an input that is cut
off inside a network, a buffer that became a parameter. `isochrone routes` and the check before training look at a
recipe that uses the place; then the tests in TESTS run until the first failure. Before that, neither may find anything
in an unchanged copy. Exits with 1 when the tests miss a leak, or when routes and liveness notice fewer than 18.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutate_routes import ROOT, run

LEAST = 18
"""Leaks that routes and liveness must notice without the tests."""
TESTS = [
    "tests/models/test_gradient_through_time.py",
    "tests/models/test_trainable.py",
    "tests/losses/test_collapse_terms.py",
    "tests/losses/test_contract.py",
    "tests/losses/test_stops.py",
    "tests/models/test_every_model.py",
]


@dataclass(frozen=True)
class Leak:
    """A replacement in one file, and a recipe in which it matters."""

    name: str
    kind: str  # view, time, input or parameter
    file: str
    old: str
    new: str
    recipe: str = "tiny"
    changes: dict[str, str] = field(default_factory=dict)


def stop(text: str) -> str:
    return f'stop_gradient({text}, "a leak")'


def cut(text: str) -> str:
    return f"(0 * {text})"


ZHP, SPACE, NETS = "models/zhp.py", "models/statespace.py", "nets/recurrent.py"
VIEW = "model.encode_image(augment(image, settings, rollout.rng))"
FILTER = "        h = self.dynamics(h, z, moved)\n        raw = self.posterior(h, looked)"
OVER = "hidden = self.dynamics(h, z, moved[k])"
IMAGINE = "h = self.dynamics(h, z, moved[k])\n            now ="
SMALL = {"model.overshoot": "3", "loss.overshoot_kl": "1", "model.posterior": "coupled"}
OPEN = {"loss.rollout_kstep_h": "1", "loss.rollout_kstep_z": "1", "model.open_loop": "4"}
PRECOMPUTE = """        return self.inputs.a(action)

    def forward(self, h: Tensor, z: Tensor, precomputed: Tensor) -> Float[Tensor, "*B D"]:
        return self.cell"""
REWARD = 'out["reward_hat"] = self.reward_head(feat)'
NO_H = "torch.arange(feat.shape[-1], device=feat.device) < self.latent.sample_size"
MEAN_FRAME = "torch.zeros(spec.image) if c.subtract_mean_frame else None"
VALUES = 'bins(out, spaced=kind.split("_")[0])'
START = "torch.zeros(self.memory)"
LEAKS = [
    Leak(
        "vicreg: the right view is stopped",
        "view",
        "losses/collapse.py",
        f"right = {VIEW}",
        f"right = {stop(VIEW)}",
        "zhp",
    ),
    Leak(
        "vicreg: the left view is stopped",
        "view",
        "losses/collapse.py",
        f"left = {VIEW}",
        f"left = {stop(VIEW)}",
        "zhp",
    ),
    Leak(
        "vicreg: one variance is stopped",
        "view",
        "losses/collapse.py",
        "variance_hinge(right)",
        f"variance_hinge({stop('right')})",
        "zhp",
    ),
    Leak(
        "zhp: belief of one step",
        "time",
        ZHP,
        "self.cell.step(inputs[:, t], h)",
        f"self.cell.step(inputs[:, t], {stop('h')})",
    ),
    Leak(
        "gru: h is stopped at the candidate and the gates",
        "time",
        NETS,
        "recur, two = self.recur(h)",
        f"recur, two = self.recur({stop('h')})",
    ),
    Leak(
        "gru: h is stopped where it is kept",
        "time",
        NETS,
        "torch.lerp(candidate, h, keep)",
        f"torch.lerp(candidate, {stop('h')}, keep)",
    ),
    Leak(
        "statespace: h of one step",
        "time",
        SPACE,
        FILTER,
        FILTER.replace("(h, z", f"({stop('h')}, z"),
        "planet",
        {"env.actions": "discrete"},
    ),
    Leak(
        "statespace: z of one step",
        "time",
        SPACE,
        FILTER,
        FILTER.replace("(h, z", f"(h, {stop('z')}"),
        "planet",
        {"env.actions": "discrete"},
    ),
    Leak(
        "statespace: h stopped between rows",
        "time",
        SPACE,
        "self._step_fn(h[..., : self.memory]",
        f"self._step_fn({stop('h[..., : self.memory]')}",
        "planet",
    ),
    Leak(
        "decoupled: h of one step",
        "time",
        SPACE,
        "torch.where(new, h0, h[..., : self.memory])",
        f"torch.where(new, h0, {stop('h[..., : self.memory]')})",
        "planet_small",
    ),
    Leak(
        "decoupled: the sample before is stopped",
        "time",
        SPACE,
        "torch.cat([z0[None], z[:-1]])",
        f"torch.cat([z0[None], {stop('z[:-1]')}])",
        "planet_small",
    ),
    Leak(
        "overshooting: h of one step", "time", SPACE, OVER, OVER.replace("(h", f"({stop('h')}"), "planet_small", SMALL
    ),
    Leak(
        "overshooting: z of one step",
        "time",
        SPACE,
        OVER,
        OVER.replace("h, z", f"h, {stop('z')}"),
        "planet_small",
        SMALL,
    ),
    Leak(
        "zhp: open loop, h of one step",
        "time",
        ZHP,
        "h = self.predict(z, h, actions[:, :, i])",
        f"h = self.predict(z, {stop('h')}, actions[:, :, i])",
        "tiny",
        OPEN,
    ),
    Leak(
        "zhp: open loop, z of one step",
        "time",
        ZHP,
        "h = self.predict(z, h, actions[:, :, i])",
        f"h = self.predict({stop('z')}, h, actions[:, :, i])",
        "tiny",
        OPEN,
    ),
    Leak("imagine: h of one step", "time", SPACE, IMAGINE, IMAGINE.replace("(h", f"({stop('h')}"), "planet"),
    Leak("imagine: z of one step", "time", SPACE, IMAGINE, IMAGINE.replace("h, z", f"h, {stop('z')}"), "planet"),
    Leak(
        "zhp: the action is cut off in imagination",
        "input",
        ZHP,
        "torch.cat([z, action], -1)), h)",
        f"torch.cat([z, {cut('action')}], -1)), h)",
    ),
    Leak(
        "zhp: z is cut off in imagination",
        "input",
        ZHP,
        "torch.cat([z, action], -1)), h)",
        f"torch.cat([{cut('z')}, action], -1)), h)",
    ),
    Leak(
        "zhp: the action is cut off in the filter",
        "input",
        ZHP,
        "torch.cat([z, batch.action], -1)",
        f"torch.cat([z, {cut('batch.action')}], -1)",
    ),
    Leak(
        "zhp: z is cut off in the filter",
        "input",
        ZHP,
        "torch.cat([z, batch.action], -1)",
        f"torch.cat([{cut('z')}, batch.action], -1)",
    ),
    Leak(
        "zhp: h is cut off in the odometry",
        "input",
        ZHP,
        "torch.cat([scaled, h, action], -1)",
        f"torch.cat([scaled, {cut('h')}, action], -1)",
        "zhp",
    ),
    Leak(
        "statespace: z is cut off in the filter",
        "input",
        SPACE,
        FILTER,
        FILTER.replace("(h, z", f"(h, {cut('z')}"),
        "planet",
    ),
    Leak(
        "statespace: the posterior does not see h",
        "input",
        SPACE,
        FILTER,
        FILTER.replace("(h, looked)", f"({cut('h')}, looked)"),
        "planet",
    ),
    Leak(
        "statespace: the prior does not see h",
        "input",
        SPACE,
        "self.latent.dist(self.prior(h))",
        f"self.latent.dist(self.prior({cut('h')}))",
        "planet",
    ),
    Leak(
        "statespace: the reward head does not see h",
        "input",
        SPACE,
        REWARD,
        REWARD.replace("feat)", f"feat * ({NO_H}))"),
        "planet",
    ),
    Leak(
        "dynamics: the action is cut off",
        "input",
        NETS,
        PRECOMPUTE,
        PRECOMPUTE.replace("(action)", "(0 * action)"),
        "planet",
    ),
    Leak(
        "the mean frame became a parameter",
        "parameter",
        SPACE,
        f'self.register_buffer("mean_frame", {MEAN_FRAME})',
        f"self.mean_frame = nn.Parameter{MEAN_FRAME.replace('torch.zeros(spec.image)', '(torch.zeros(spec.image))')}",
        "planet_small",
        {"model.subtract_mean_frame": "true"},
    ),
    Leak(
        "the values of the reward's classes became a parameter",
        "parameter",
        SPACE,
        f'self.register_buffer("values", {VALUES}, persistent=False)',
        f"self.values = nn.Parameter({VALUES})",
        "planet_small",
        {"model.reward": "symexp_two_hot"},
    ),
    Leak(
        "the learned start became a buffer",
        "parameter",
        SPACE,
        f"self.initial_h = nn.Parameter({START}) if learned else None",
        f'self.register_buffer("initial_h", {START} if learned else None)',
        "planet_small",
        {"model.initial_state": "learned"},
    ),
]
CHECK = """
import json, sys
from isochrone.workflows import dataset, factory, routes, train
recipe, changes = sys.argv[1], json.loads(sys.argv[2])
small = {"data.rows": "110", "data.num_envs": "8", "train.batch": "8", "train.length": "10"}
changes = {**small, **changes}
config = factory.make_config(recipe, changes)
found = {"routes": routes.measure_routes(config).violations()}
replay = dataset.fill_replay(config, None)
objective = factory.make_objective(config, factory.make_learner(config, replay.spec))
report = train.probe_losses(config, objective, replay)
found["liveness"] = [*report.faults, *(f"unmoved: {weight}" for weight in report.unmoved)]
print(json.dumps(found))
"""


def look(src: Path, leak: Leak) -> dict[str, Any]:
    """What `isochrone routes` and the check before training say of the leak's recipe; a crash of them counts."""
    env = {**os.environ, "PYTHONPATH": str(src), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-c", CHECK, leak.recipe, json.dumps(leak.changes)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return {"routes": [done.stderr.strip().splitlines()[-1][:200]], "liveness": []}
    return json.loads(done.stdout.splitlines()[-1])


def planted(src: Path, leak: Leak) -> str:
    """Put the leak in; returns the file as it was."""
    path = src / "isochrone" / leak.file
    text = path.read_text(encoding="utf-8")
    if text.count(leak.old) != 1:
        raise ValueError(f"{leak.name}: {leak.file} holds {leak.old!r} {text.count(leak.old)} times, must be once")
    changed = text.replace(leak.old, leak.new)
    if "stop_gradient(" in leak.new and "import stop_gradient" not in text:
        line = "from __future__ import annotations\n"
        changed = changed.replace(line, f"{line}\nfrom isochrone.core.gradient import stop_gradient\n", 1)
    path.write_text(changed, encoding="utf-8")
    return text


def trial(src: Path, leak: Leak, tests: bool) -> dict[str, Any]:
    """Put the leak in, ask everybody, take it out."""
    path = src / "isochrone" / leak.file
    text = planted(src, leak)
    try:
        found = look(src, leak)
        passed, by = run(src, TESTS, 600) if tests else (True, "")
    finally:
        path.write_text(text, encoding="utf-8")
    noticed = bool(found["routes"] or found["liveness"])
    about = {"leak": leak.name, "kind": leak.kind, "file": leak.file, "recipe": leak.recipe}
    said = {kind: lines[0] if lines else "" for kind, lines in found.items()}
    return {**about, "noticed": noticed, **said, "failed_test": "" if passed else by}


def main() -> int:
    """Command line; 1 where too little is noticed, 2 where something is found without a leak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="leaks whose name holds this")
    parser.add_argument("--no-tests", action="store_true", help="routes and liveness only")
    args = parser.parse_args()
    chosen = [leak for leak in LEAKS if args.only in leak.name]
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder)
        shutil.copytree(ROOT / "src/isochrone", src / "isochrone", ignore=shutil.ignore_patterns("__pycache__"))
        for leak in {(leak.recipe, str(leak.changes)): leak for leak in chosen}.values():
            before = look(src, leak)
            if before["routes"] or before["liveness"]:
                print(f"{leak.recipe} {leak.changes} without a leak: {before}", file=sys.stderr)
                return 2
        if not args.no_tests:
            passed, by = run(src, TESTS, 600)
            if not passed:
                print(f"the tests fail without any leak: {by}", file=sys.stderr)
                return 2
        rows = []
        for number, leak in enumerate(chosen, 1):
            rows.append(trial(src, leak, not args.no_tests))
            marks = ["noticed" if rows[-1]["noticed"] else "MISSED", rows[-1]["failed_test"] or "no test failed"]
            print(f"{number}/{len(chosen)} {leak.name}: {', '.join(marks)}", file=sys.stderr)
    noticed, tested = (sum(bool(row[key]) for row in rows) for key in ("noticed", "failed_test"))
    print(json.dumps({"leaks": len(rows), "noticed": noticed, "noticed_by_tests": tested, "all": rows}, indent=2))
    return int((noticed < LEAST or tested < len(rows)) and not args.only)


if __name__ == "__main__":
    sys.exit(main())
