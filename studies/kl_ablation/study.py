"""What does the KL do? The same RSSM on the same recordings, with the KL at weights from 0 to 10."""

from studies.harness.study import Cell, Study

BETAS = ("0", "0.001", "0.1", "1", "10")
# one fixed recording of random actions, so that only the loss differs
FIXED = {"data.collect_every": "0", "data.num_envs": "64", "data.rows": "204"}
FIXED |= {"train.steps": "2000", "eval.return_episodes": "32"}
# the KL of the ELBO: one free nat would hide small weights, and a second loss on the posterior would replace it
FIXED |= {"loss.kl.settings.free": "0", "loss.kl.settings.rep": "1", "loss.kl_global": "0", "loss.image": "1"}
CELLS = [
    Cell(f"beta-{beta}-{seed}", "planet_small", {"loss.kl": beta, "eval.seed": str(100 + seed)}, seed, f"beta-{beta}")
    for seed in range(3)
    for beta in BETAS
]
# its "KL" is half a squared distance, which a small z satisfies too: it is trained by images predicted many steps ahead
RNN = {"model": "rnn", "loss.overshoot_image": "1", "model.overshoot": "8", "model.rollout_starts": "1"}
CELLS += [Cell(f"rnn-{seed}", "planet_small", {**RNN, "eval.seed": str(100 + seed)}, seed, "rnn") for seed in range(3)]

STUDY = Study(
    title="what the KL does",
    question="What happens without it: does the posterior collapse, does the prior learn, how far can the model "
    "imagine, can one plan? And with too much of it?",
    finding="Without the KL the prior learns nothing (error {beta-0:latent_information.prior_error} of the spread) "
    "and planning earns {beta-0:return.share} of the best return; at weight 1 it earns {beta-1:return.share}, at "
    "weight 10 {beta-10:return.share}. But the posterior does not turn into noise: it becomes almost deterministic.",
    figure=("latent_information.prior_error", "openloop_pixels.error_end", "return.share"),
    cells=CELLS,
    roles={f"beta-{b}": f"KL at weight {b}" + (" (the ELBO)" if b == "1" else "") for b in BETAS}
    | {"rnn": "RNN (deterministic; trained on predicted images)"},
    changes=FIXED,
)
