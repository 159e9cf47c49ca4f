"""Every option and name of the version before is refused, and the new one is suggested where it is at all similar."""

from __future__ import annotations

from difflib import SequenceMatcher

import pytest

OPTIONS = """
model.floor model.min_std
model.initial model.initial_state
model.centre model.subtract_mean_frame
model.bits model.image_bits
model.units model.head_units
model.layers model.head_layers
model.decode model.decode_rows
model.starts model.rollout_starts
model.run model.compile
model.detach_z_from_h_and_p model.stop_grad_to_encoder
model.pose_delta_detach_h model.stop_grad_to_predictor
model.detach_decoder model.stop_grad_from_decoder
compare compare_planners
finish then
force allow_dead_losses
eval.returns eval.return_episodes
data.lanes data.num_envs
data.held data.holdout_fraction
data.repeat data.hold_steps
data.refresh_every data.collect_every
data.refresh_rows data.collect_steps
data.refresh_by data.collect_policy
env.repeat env.action_repeat
term.reach_p.slack loss.reach_p.settings.slack
after.jepa loss.jepa.start
until.jepa loss.jepa.stop
planner.floor agent.planner.min_spread
planner.trust agent.planner.warm_start_prob
planner.repeat agent.planner.hold_steps
planner.returns agent.planner.output
planner.doubt agent.planner.arrival_penalty
planner.merge agent.planner.merge_radius
planner.key agent.planner.merge_field
mpc.space agent.objective
mpc.kind agent.reach_cost
mpc.ends agent.use_continue
mpc.draws agent.sample_futures
train.lr optim.model.lr
train.warmup optim.model.warmup
train.schedule optim.model.schedule
train.final_lr optim.model.final_lr
train.lr_scale optim.model.lr_scale
train.clip optim.model.clip
train.weight_decay optim.model.weight_decay
train.betas optim.model.betas
train.eps optim.model.eps
train.explode train.divergence_factor
loss.reach_p.settings.keep loss.reach_p.settings.keep_fraction
loss.reach_p.settings.full loss.reach_p.settings.full_progress
loss.bellman_p.settings.keep loss.bellman_p.settings.keep_fraction
loss.bellman_p.settings.full loss.bellman_p.settings.full_progress
env.seen env.obs_size
env.apart env.diagonal
loss.recon_multi_box.settings.floor loss.recon_multi_box.settings.min_local_mean
loss.pixel_delta_multi_box.settings.floor loss.pixel_delta_multi_box.settings.min_local_mean
"""
VALUES = """
model.compile loop none
model.compile full unroll
model.pose running_sum summed
planner lattice astar
agent.planner lattice astar
compare_planners lattice astar
env gymnasium gym
"""
RECIPES = """
zhp_seed002 zhp_original
zhp_running_sum zhp_summed_pose
"""
SETUPS = {
    "planner.trust": ["--planner", "cem"],
    "planner.repeat": ["--planner", "cem"],
    "planner.returns": ["--planner", "cem"],
    "planner.floor": ["--planner", "cem"],
    "env.repeat": ["--env", "gym:CartPole-v1"],
    "env.seen": ["--env", "linear"],
    "env.apart": ["--env", "linear"],
    "loss.bellman_p.settings.keep": ["--loss.bellman_p", "1"],
    "loss.bellman_p.settings.full": ["--loss.bellman_p", "1"],
    "loss.pixel_delta_multi_box.settings.floor": ["--loss.pixel_delta_multi_box", "1"],
}
"""Options that an old option was an option of."""
STATE_SPACE = {"floor", "initial", "centre", "bits", "units", "layers", "decode", "starts", "run"}


def similar(old: str, new: str) -> bool:
    """Whether a reader would see the new name in the old one."""
    a, b = (name.rpartition(".")[2] for name in (old, new))
    return a == b or b.startswith(f"{a}_") or b.endswith(f"_{a}") or SequenceMatcher(None, a, b).ratio() >= 0.6


@pytest.mark.parametrize(("old", "new"), [line.split() for line in OPTIONS.strip().splitlines()])
def test_an_old_option_is_refused(isochrone, old: str, new: str) -> None:
    head, _, last = old.partition(".")
    recipe = "planet_small" if head == "model" and last in STATE_SPACE or old == "model.run" else "zhp"
    done = isochrone("train", recipe, "--help", *SETUPS.get(old, []), f"--{old.replace('_', '-')}", "1")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("isochrone: ")
    assert f"'{head}" in line or f"--{head}" in line or f"'agent.{old}'" in line, line
    if similar(old, new):
        assert "did you mean" in line, line
        assert new.rpartition(".")[2] in line or new.rpartition(".")[0] in line, line


@pytest.mark.parametrize(("option", "old", "new"), [line.split() for line in VALUES.strip().splitlines()])
def test_an_old_value_is_refused(isochrone, option: str, old: str, new: str) -> None:
    recipe = "planet_small" if option == "model.compile" else "zhp"
    done = isochrone("train", recipe, "--help", f"--{option.replace('_', '-')}", old)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert f"'{old}'" in line
    assert new in line, line


@pytest.mark.parametrize(("old", "new"), [line.split() for line in RECIPES.strip().splitlines()])
def test_an_old_recipe_is_refused(isochrone, old: str, new: str) -> None:
    done = isochrone("train", old)
    assert done.code == 2
    assert f"no recipe called '{old}'" in done.err
    assert new in done.err
