"""Does latent overshooting help? The same RSSM on the same recordings with D = 1 (none), 5 and 20."""

from studies.harness.study import Cell, Study

FIXED = {"data.collect_every": "0", "data.num_envs": "64", "data.rows": "204"}
FIXED |= {"train.steps": "2000", "eval.return_episodes": "32"}
FIXED |= {"train.batch": "16", "train.length": "25", "model.rollout_starts": "4"}
CELLS: list[Cell] = []
for seed in range(3):
    for depth in (1, 5, 20):
        more = {"eval.seed": str(100 + seed)}
        if depth > 1:  # the paper's mean over d = 1..D, every beta one
            more |= {"model.overshoot": str(depth), "loss.kl": str(1 / depth), "loss.overshoot_kl": str(1 - 1 / depth)}
        CELLS.append(Cell(f"depth-{depth}-{seed}", "planet_small", more, seed, f"depth-{depth}"))

STUDY = Study(
    title="latent overshooting",
    question="The priors d = 2..D steps after a posterior are trained to match the later posteriors. Does the model "
    "then predict farther ahead?",
    finding="A little: the pixel error at the longest horizon falls from {depth-1:openloop_pixels.error_end} (D = 1) "
    "to {depth-5:openloop_pixels.error_end} (D = 5) and {depth-20:openloop_pixels.error_end} (D = 20), still no "
    "better than the mean frame. Plans are not better: {depth-1:return.share}, {depth-5:return.share} and "
    "{depth-20:return.share} of the best return.",
    figure=("openloop_pixels.error_end", "openloop_pixels.reward_r2", "return.share"),
    cells=CELLS,
    roles={"depth-1": "D = 1: none", "depth-5": "D = 5", "depth-20": "D = 20"},
    changes=FIXED,
)
