"""How close does an ELBO come to the exact likelihood? Linear-Gaussian systems, where a Kalman filter computes it."""

from studies.harness.study import Cell, Study

CELLS: list[Cell] = []
for seed in range(5):  # each seed is a system of its own
    system = {"env.system": str(seed), "eval.seed": str(100 + seed)}
    CELLS.append(Cell(f"ssm-{seed}", "kalman", system, seed, "ssm"))
    # more states than the true system: room for what the past says about the future
    CELLS.append(Cell(f"wider-{seed}", "kalman", {**system, "model.stoch": "4"}, seed, "wider"))
    # the paper's mean over d = 1..5, every beta one
    ahead = {"model.overshoot": "5", "model.rollout_starts": "20", "loss.kl": "0.2", "loss.overshoot_kl": "0.8"}
    CELLS.append(Cell(f"overshot-{seed}", "kalman", {**system, **ahead}, seed, "overshot"))

STUDY = Study(
    title="an ELBO beside the exact likelihood",
    question="A linear SSM learns a linear-Gaussian system from observations. Does its ELBO stay below the exact "
    "log-likelihood, and does it come as close as the best filtering posterior?",
    finding="The ELBO stays {ssm:likelihood.gap} nats per step below the exact log-likelihood; the best filter in the "
    "true states stays {ssm:likelihood.best_filter_gap} below. But raising the bound is not the same as raising the "
    "likelihood: raising it from the true system lost likelihood, and latent overshooting made the gap larger "
    "({overshot:likelihood.gap}), not smaller.",
    figure=("likelihood.gap", "likelihood.gap_to_best_filter"),
    cells=CELLS,
    roles={
        "ssm": "linear SSM with as many states as the true system",
        "wider": "the same with four states",
        "overshot": "the same with two states and latent overshooting, D = 5",
    },
)
