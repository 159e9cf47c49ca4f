"""Which loss of a recipe moves which weights, declared and measured; and how the original z/h/p design differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from isochrone.core import registry
from isochrone.core.types import Batch, Spec
from isochrone.data.collect import collect, noise_batch, random_policy
from isochrone.data.replay import ReplayBuffer
from isochrone.losses.flow import loss_leaks, model_leaks
from isochrone.losses.routes import GradientReport, check_routes
from isochrone.recipes.schema import Config
from isochrone.training.device import generator
from isochrone.training.learner import Learner
from isochrone.workflows import factory

BATCHES, ENVS = 3, 8
MAX_LENGTH = 12
"""Rows of a window at most: a gradient that exists shows in a few rows."""
ORIGINAL_RECIPE = "zhp_original"
ORIGINAL_GROUPS = {
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
"""Groups that each loss of the original design moves (docs/background.md, Gradient routes of the original losses)."""
REASONS = {
    ("z2h", "more"): "h starts as h_0 = Zh(z_0), so what trains h trains z2h too",
    ("predictor", "less"): "only the first row is used, where h_0 = Zh(z_0): the other rows repeat the jepa loss",
    ("pose", "more"): "the pose is measured, p = M(z), not the sum of delta_p",
    ("metric", "more"): "the distance d_p has weights of its own",
    ("delta_p", "less"): "the pose is measured, so a rank loss on it does not reach delta_p",
}
"""Why a group is moved here and not in the original design ('more'), or the other way round ('less')."""


def probe_batches(config: Config, spec: Spec) -> list[Batch]:
    """A few small batches: of the recipe's environment, or of noise where it trains on recordings."""
    rng, length = generator(0, "probes"), min(config.train.length, MAX_LENGTH)
    if config.data.path is not None:
        return [noise_batch(spec, ENVS, length, rng) for _ in range(BATCHES)]
    env = factory.make_env(config, ENVS)
    rows = 4 * length
    replay = ReplayBuffer(spec, ENVS, rows)
    collect(env, random_policy(spec.action, rng, 2.0), replay, ENVS * rows, rng)
    env.close()
    return [replay.sample(ENVS, length, rng) for _ in range(BATCHES)]


def measure_routes(config: Config, spec: Spec | None = None, learner: Learner | None = None) -> GradientReport:
    """Declared and measured groups of every loss of a config, on a new learner or the given one.

    Losses that are undefined for the model are measured all the same.
    """
    spec = spec or factory.spec_of(config)
    learner = learner or factory.make_learner(config, spec)
    objective = factory.make_objective(replace(config, allow_dead_losses=True), learner.cpu())
    objective.set_progress(1.0)

    def value_of(name: str) -> Callable[[Batch], torch.Tensor]:
        return lambda batch: objective.values(batch, generator(0, "terms"), [name], probe=True)[name]

    _randomize_zero_weights(learner)
    groups, modes = learner.groups(), learner.model.modes
    losses = {name: (value_of(name), loss.declared(groups, modes)) for name, loss in objective.losses.items()}
    probes = probe_batches(config, spec)
    report, rng = check_routes(groups, losses, probes, learner), partial(generator, 0, "terms")
    leaks = [*loss_leaks(objective, probes, rng), *model_leaks(learner.model, probes[0], objective.needs, rng)]
    return replace(report, leaks=tuple(leaks))


@torch.no_grad()
def _randomize_zero_weights(learner: Learner) -> None:
    """A layer initialised to zero passes no gradient back: give it weights, so that the route behind it shows."""
    rng = generator(0, "stir")
    for weight in learner.parameters():
        if weight.requires_grad and weight.dim() > 1 and not bool(weight.any()):
            weight.copy_(0.1 * torch.randn(weight.shape, generator=rng))


def moved_groups(report: GradientReport, loss: str) -> list[str]:
    """The groups that receive a gradient from a loss, in the model's order."""
    return [group for group, norm in report.moved[loss].items() if norm > 0]


def without_unused_groups(report: GradientReport) -> tuple[GradientReport, list[str]]:
    """(the report without the groups that no loss declares or moves, the names of these groups)."""
    used = {group for loss in report.moved for group in (*moved_groups(report, loss), *report.declared[loss])}
    unused = [group for group in next(iter(report.moved.values()), {}) if group not in used]
    moved = {loss: {g: norm for g, norm in norms.items() if g in used} for loss, norms in report.moved.items()}
    return replace(report, moved=moved), unused


def to_text(report: GradientReport) -> str:
    """Plain text: one line per loss with the groups that it moves, and what differs from its declaration."""
    lines = [f"{'loss':<24}moves (measured)"]
    for loss in report.moved:
        moved, declared = moved_groups(report, loss), report.declared[loss]
        wrong = [f"{g} is not declared" for g in moved if g not in declared]
        wrong += [f"{g} is declared and not moved" for g in sorted(declared) if g not in moved]
        verdict = f"   ✗ {', '.join(wrong)}" if wrong else "   ● as declared"
        lines.append(f"{loss:<24}{' '.join(moved) or 'nothing'}{verdict}")
    unused = without_unused_groups(report)[1]
    rest = [f"moved by no loss: {' '.join(unused)}"] if unused else []
    rest += [f"✗ moved by no loss: {weight}" for weight in report.unmoved] + [f"✗ {leak}" for leak in report.leaks]
    return "\n".join([*lines, *([""] if rest else []), *rest])


def to_page(reports: Mapping[str, GradientReport]) -> str:
    """docs/routes.md: Markdown tables of the reports of recipes, by name."""
    parts = [
        "# Which loss moves which weights",
        "Generated by `isochrone routes --all --write docs/routes.md`; a test fails when it is out of date. Rows are "
        "losses, columns the model's groups of weights. ● declared, and a gradient was measured in the recipe's own "
        "environment; · neither; ✗ one without the other.",
    ]
    for name, report in reports.items():
        recipe = registry.get("recipe", name)
        table, unused = without_unused_groups(report)
        rest = [f"Moved by no loss: {', '.join(unused)}."] if unused else []
        parts += [f"## {name}", str(recipe.__doc__).split("\n")[0], table.table(), *rest, *_violations(report)]
        if name == ORIGINAL_RECIPE:
            parts += ["### Beside the original design", comparison_table(report)]
    return "\n\n".join(parts) + "\n"


def _violations(report: GradientReport) -> list[str]:
    violations = report.violations()
    if not violations:
        return []
    return ["Violations (this recipe is a negative control):\n\n" + "\n".join(f"- {v}" for v in violations)]


# --- the original z/h/p design ----------------------------------------------------------------------------------------


def compare_with_original(report: GradientReport) -> list[tuple[str, str, str, str]]:
    """(loss, groups of the original design, measured groups, why they differ) of every loss of that design."""
    rows = []
    for loss, text in ORIGINAL_GROUPS.items():
        if loss not in report.moved:
            continue
        original, moved = text.split(), moved_groups(report, loss)
        reasons = [REASONS.get((g, "more"), f"{g}: unexplained") for g in moved if g not in original]
        reasons += [REASONS.get((g, "less"), f"{g}: unexplained") for g in original if g not in moved]
        ordered = [g for g in report.moved[loss] if g in original]
        rows.append((loss, ", ".join(ordered), ", ".join(moved), "; ".join(dict.fromkeys(reasons)) or "same"))
    return rows


def comparison_text(report: GradientReport) -> str:
    """Plain text: the original design beside what is measured here."""
    lines = []
    for loss, original, moved, reason in compare_with_original(report):
        lines.append(f"{loss:<24}original: {original}")
        if reason != "same":
            lines += [f"{'':<24}here:     {moved}", f"{'':<24}reason:   {reason}"]
    return "\n".join(lines)


def comparison_table(report: GradientReport) -> str:
    """Markdown: the original design beside what is measured here."""
    lines = ["| loss | original design | measured | why they differ |", "|---|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in compare_with_original(report))])
