"""Which loss moves which weights, declared and measured, for a recipe; and what the notes (seeds/002) say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from isochrone.core import registry
from isochrone.core.types import Batch, Spec
from isochrone.data.collect import collect, random_policy
from isochrone.data.replay import Replay
from isochrone.losses.routes import GradientReport, check_routes
from isochrone.recipes.schema import Config
from isochrone.train.device import generator
from isochrone.workflows import build

PROBES = 3
ROWS = 12  # of a probe's windows at most: a route that is there shows in a few rows
NOTES = {
    "jepa": "predictor h2z",
    "recon_multi_box": "encoder decoder",
    "pixel_delta_multi_box": "encoder decoder",
    "h2z": "h2z predictor",
    "z2h": "z2h",
    "inverse_dynamics_h": "inverse_h predictor",
    "action_delta_h": "delta_h predictor",
    "rollout_kstep_h": "predictor h2z",
    "rollout_kstep_delta_h": "predictor h2z",
    "action_delta_dp": "prototypes_p delta_p",
    "additivity_dp": "delta_p",
    "rollout_kstep_p": "delta_p",
    "scale_dp": "delta_p",
    "geometry_rank_p": "delta_p",
}
"""The notes' table 'Gradient flow by loss', in our names: h_to_z = h2z, z_to_h = z2h, p_action_delta_projector =
delta_p, dp_action_delta_projector = prototypes_p, h_action_delta_projector = delta_h."""

WHY = {
    ("z2h", "more"): "belief starts at h_0 = Zh(z_0), so what trains h trains z2h too",
    ("predictor", "less"): "only the first row is kept, where h_0 = Zh(z_0): the other rows are the jepa loss again",
    ("pose", "more"): "the pose is measured, p = M(z), and no longer the running sum of delta_p",
    ("metric", "more"): "the distance d_p has weights of its own",
    ("delta_p", "less"): "the pose is measured, so ranking it says nothing about odometry",
}


def probes_of(config: Config, spec: Spec) -> list[Batch]:
    """A few small batches of the recipe's own world; of noise, where it trains on recordings."""
    rng = generator(0, "probes")
    if config.data.path is None:
        env = registry.get("env", config.env.name)(config.env, 8)
        length = min(config.train.length, ROWS)
        rows = 4 * length
        replay = Replay(spec, 8, rows)
        collect(env, random_policy(spec.action, rng, 2.0), replay, 8 * rows, rng)
        env.close()
        return [replay.sample(8, length, rng) for _ in range(PROBES)]
    return [_noise(spec, min(config.train.length, ROWS), rng) for _ in range(PROBES)]


def _noise(spec: Spec, length: int, rng: torch.Generator) -> Batch:
    shape = (8, length)
    obs = {
        name: torch.randint(256, (*shape, *size), generator=rng, dtype=torch.uint8)
        if name == "image"
        else torch.randn(*shape, *size, generator=rng)
        for name, size in spec.obs.items()
    }
    no = torch.zeros(shape, dtype=torch.bool)
    return Batch(obs, spec.action.sample(shape, rng), torch.zeros(shape), no, no, no)


def routes_of(config: Config, spec: Spec | None = None, model: Any = None) -> GradientReport:
    """Declared and measured routes of every loss of a config, on a fresh or given model; forced where refused."""
    spec = spec or build.spec_of(config)
    model = model if model is not None else build.make_model(config, spec)
    total = build.make_objective(replace(config, allow_dead_losses=True), model.cpu())
    total.set_progress(1.0)

    def loss(name: str) -> Any:
        def value(batch: Batch) -> torch.Tensor:
            return total.values(batch, generator(0, "terms"), [name], probe=True)[name]

        return value

    _stir(model)
    losses = {name: (loss(name), made.declared(model)) for name, made in total.losses.items()}
    return check_routes(model.groups(), losses, probes_of(config, spec), model)


@torch.no_grad()
def _stir(model: Any) -> None:
    """A layer that starts at zero passes nothing back: give it weights, so that what lies behind it shows."""
    rng = generator(0, "stir")
    for weight in model.parameters():
        if weight.requires_grad and weight.dim() > 1 and not bool(weight.any()):
            weight.copy_(0.1 * torch.randn(weight.shape, generator=rng))


def against_notes(routes: GradientReport) -> list[tuple[str, str, str, str]]:
    """(loss, notes say, measured, why they differ) for every loss of the notes' table."""
    rows = []
    for name, said in NOTES.items():
        if name not in routes.moved:
            continue
        want, have = said.split(), moved(routes, name)
        why = [WHY.get((g, "more"), f"{g}: unexplained") for g in have if g not in want]
        why += [WHY.get((g, "less"), f"{g}: unexplained") for g in want if g not in have]
        order = [g for g in routes.moved[name] if g in want]
        rows.append((name, ", ".join(order), ", ".join(have), "; ".join(dict.fromkeys(why)) or "same"))
    return rows


def moved(routes: GradientReport, name: str) -> list[str]:
    """The groups that a loss was measured to move, in the model's order."""
    return [g for g, size in routes.moved[name].items() if size > 0]


def narrow(routes: GradientReport) -> tuple[GradientReport, list[str]]:
    """The table without the groups that no loss declares or moves, and the names of these."""
    used = {g for name in routes.moved for g in (*moved(routes, name), *routes.declared[name])}
    idle = [g for g in next(iter(routes.moved.values()), {}) if g not in used]
    kept = {name: {g: size for g, size in groups.items() if g in used} for name, groups in routes.moved.items()}
    return GradientReport(routes.declared, kept), idle


def plain(routes: GradientReport) -> str:
    """For the terminal: one line per loss, the groups it moves, and what is not as declared."""
    lines = [f"{'loss':<24}moves (measured)"]
    for name in routes.moved:
        have, want = moved(routes, name), routes.declared[name]
        wrong = [f"{g} is not declared" for g in have if g not in want]
        wrong += [f"{g} is declared and not moved" for g in sorted(want) if g not in have]
        lines.append(
            f"{name:<24}{' '.join(have) or 'nothing'}{'   ✗ ' + ', '.join(wrong) if wrong else '   ● as declared'}"
        )
    idle = narrow(routes)[1]
    if idle:
        lines += ["", f"moved by no loss: {' '.join(idle)}"]
    return "\n".join(lines)


def plain_notes(routes: GradientReport) -> str:
    """For the terminal: the notes' table beside what is measured."""
    lines = []
    for name, said, have, why in against_notes(routes):
        lines.append(f"{name:<24}notes: {said}")
        if why != "same":
            lines += [f"{'':<24}here:  {have}", f"{'':<24}why:   {why}"]
    return "\n".join(lines)


def page(tables: Mapping[str, GradientReport]) -> str:
    """docs/routes.md: the tables of recipes, {name: what `routes_of` found}."""
    parts = [
        "# Which loss moves which weights",
        "Generated by `isochrone routes --all --write docs/routes.md`; a test fails when it is out of date. Rows are "
        "losses, columns the model's groups of weights. ● declared, and a gradient was measured on the recipe's own "
        "world; · neither; ✗ one without the other.",
    ]
    for name, found in tables.items():
        thing = registry.get("recipe", name)
        small, idle = narrow(found)
        rest = [f"Moved by no loss: {', '.join(idle)}."] if idle else []
        parts += [f"## {name}", str(thing.__doc__).split("\n")[0], small.table(), *rest, *faults(found)]
        if name == "zhp_original":
            parts += ["### Beside the notes (seeds/002)", notes_table(found)]
    return "\n\n".join(parts) + "\n"


def faults(routes: GradientReport) -> list[str]:
    """A list of the broken promises, or nothing."""
    found = routes.violations()
    return (
        ["Broken promises (this recipe is a negative control):\n\n" + "\n".join(f"- {f}" for f in found)]
        if found
        else []
    )


def notes_table(routes: GradientReport) -> str:
    """Markdown: the notes' table beside what is measured here."""
    lines = ["| loss | the notes | measured | why they differ |", "|---|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in against_notes(routes))])
