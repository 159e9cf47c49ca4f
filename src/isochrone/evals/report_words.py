"""The words of the report: which number answers which question, and how to read it. No computing, no markup."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One number: its key in the results, its plain name, and how to write it."""

    key: str
    label: str
    style: str = "{:.2f}"  # a format of the value; '%' writes a share as per cent


class Section(NamedTuple):
    """A question, its one-sentence answer's number, its pictures and numbers."""

    anchor: str
    question: str
    read: str  # one sentence: how to read it
    floor: str  # what the floor is
    figures: tuple[str, ...]
    rows: tuple[Row, ...]


SECTIONS = (
    Section(
        "predict",
        "Does it predict?",
        "The model sees a few frames, then imagines blindly while the recorded actions are played; "
        "a good model stays far below the dashed floor at every horizon and shows the box where it really is.",
        "z stays what it was at the last frame seen",
        ("film", "openloop"),
        (
            Row("prediction.error_1", "error of z after 1 imagined step, in units of its spread", "{:.3f}"),
            Row("prediction.error_end", "error of z at the longest horizon", "{:.3f}"),
            Row("prediction.hit_1_1", "true place found again after 1 step", "%"),
            Row("prediction.hit_1_end", "true place found again at the longest horizon", "%"),
            Row("prediction.hit_5_end", "… among the nearest five", "%"),
            Row("prediction.position_error_end", "box off at the longest horizon, px"),
            Row("belief.step_error", "one-step error, in units of standing still", "{:.3f}"),
            Row("belief.step_error_reset", "… with the belief reset at each frame", "{:.3f}"),
            Row("belief.velocity_r2", "hidden velocity read from (z, h), R²", "{:.3f}"),
            Row("belief.velocity_r2_z", "hidden velocity read from z alone, R²", "{:.3f}"),
            Row("belief.clock_r2", "clock: time since the window began, read from h, R²", "{:.3f}"),
        ),
    ),
    Section(
        "foresee",
        "What does it foresee?",
        "The belief sees five frames, then imagines blindly while the recorded actions are played: the likeliest "
        "future, and some drawn by chance. A good model stays under the dashed line, and foresees reward.",
        "the last frame seen (pixels), the mean (reward)",
        ("futures", "foresight"),
        (
            Row("foresight.pixel_1", "error in pixels after 1 imagined step, in units of their variance", "{:.3f}"),
            Row("foresight.pixel_5", "… after 5 steps", "{:.3f}"),
            Row("foresight.pixel_end", "… at the longest horizon", "{:.3f}"),
            Row("foresight.pixel_kept", "error in pixels of a frame just seen, in units of their variance", "{:.3f}"),
            Row("foresight.reward_r2", "reward foreseen, over all horizons, R²", "{:.3f}"),
            Row("foresight.chance_2", "share of chance in h after 2 imagined steps", "{:.4f}"),
            Row("foresight.chance_end", "… at the longest horizon", "{:.4f}"),
            Row("knows.position_error", "position read from the belief by a linear probe, error in px"),
            Row("knows.velocity_r2", "hidden velocity read from the belief, R²", "{:.3f}"),
        ),
    ),
    Section(
        "forks",
        "Does it know that there are two futures?",
        "The ball goes left or right: by chance, then half of the drawn futures should show each side; or as a lamp "
        "said before, then all should show the side that is due. A blur between both is neither.",
        "a coin",
        ("forks",),
        (
            Row("forks.mode", "the rarer side, as share of drawn futures", "%"),
            Row("forks.neither", "futures that show no side sharply", "%"),
            Row("forks.due", "futures that show the side that is due", "%"),
            Row("forks.error_end", "error at the longest horizon: a coin pays 1, a blur 1/2", "{:.4f}"),
            Row("forks.likeliest_end", "error of the likeliest future there (nothing is drawn)", "{:.4f}"),
            Row("forks.energy", "energy score halfway: a coin pays 1/4, a blur 1/2", "{:.3f}"),
        ),
    ),
    Section(
        "likelihood",
        "How tight is the bound?",
        "ln p is known exactly here, by a Kalman filter, and the ELBO must stay below it. In the true states no "
        "posterior that filters closes the gap; a model that learns its own states may do better.",
        "none",
        (),
        (
            Row("likelihood.exact", "exact log-likelihood, nats per step", "{:.4f}"),
            Row("likelihood.elbo", "ELBO of the model", "{:.4f}"),
            Row("likelihood.gap", "gap between them", "{:.4f}"),
            Row("likelihood.filter", "… of the best posterior that filters in the true states", "{:.4f}"),
            Row("likelihood.short", "the model's gap beyond that (below 0: its states filter better)", "{:.4f}"),
            Row("likelihood.climb_elbo", "ELBO gained by model and filter climbing it from the truth", "{:.4f}"),
            Row("likelihood.climb_exact", "… exact log-likelihood gained meanwhile", "{:.4f}"),
            Row("likelihood.overshot", "overshooting objective over the ELBO, true system and best filter", "{:.4f}"),
        ),
    ),
    Section(
        "nats",
        "What does it learn from a frame?",
        "KL between what is believed with the frame and without it. Dimensions at zero carry nothing; a prior much "
        "less sure than the posterior will be surprised when it plans.",
        "always expecting the mean (the prior's mean)",
        ("nats",),
        (
            Row("nats.per_frame", "KL per frame, nats"),
            Row("nats.first_frame", "… on the first frame of an episode"),
            Row("nats.used", "dimensions of z that carry more than 0.01 nats", "{:.0f}"),
            Row("nats.posterior", "entropy of the posterior, nats"),
            Row("nats.prior", "entropy of the prior, nats"),
            Row("nats.prior_error", "prior's mean off the posterior's, in units of its spread", "{:.3f}"),
            Row("nats.noise", "share of noise in z's variance", "%"),
            Row("nats.sigma_posterior", "σ of the posterior", "{:.3f}"),
            Row("nats.sigma_prior", "σ of the prior", "{:.3f}"),
        ),
    ),
    Section(
        "return",
        "What does it earn?",
        "Whole episodes played by planning in the belief, without exploration noise.",
        "acting at random",
        (),
        (
            Row("return.cem", "return, planning by CEM"),
            Row("return.share", "share of the best possible return", "%"),
            Row("return.oracle", "the best possible"),
            Row("return.random", "acting at random"),
            Row("return.noop", "doing nothing"),
            Row("return.promised", "what a plan promises over its horizon"),
            Row("return.came", "… and what came in that time"),
            Row("return.overpromise", "… promised but not kept (above 0: fooled)"),
            Row("cost.frames", "imagining and drawing frames: times as long", "{:.1f}"),
        ),
    ),
    Section(
        "perceptual",
        "Is z perceptual?",
        "Every dot is a pair of places: what looks twice as far apart should lie farther apart in z, "
        "and the two ends of a pipe (diamonds) must lie in the same band as all other pairs, however near in actions.",
        "no relation (rank), the mean position (probe)",
        ("perceptual",),
        (
            Row("perception.spearman", "rank correlation of z distance and visible displacement", "{:.3f}"),
            Row("perception.spearman_frames", "… over recorded frames, noise and all", "{:.3f}"),
            Row("perception.pipe_ends_gap", "ends of a pipe: rank in z against rank by displacement, worst", "%"),
            Row("perception.position_error", "position read from z by a linear probe, error in px"),
            Row("perception.effective_rank", "effective rank of z", "{:.1f}"),
            Row("perception.shift_noise", "shift of z under pixel noise, in nearest-place distances"),
            Row("perception.shift_light", "shift of z under 10 % less light, in nearest-place distances"),
        ),
    ),
    Section(
        "reachability",
        "Is p reachability?",
        "d_p should equal the fewest actions from one place to another: the curve on the diagonal, the band narrow, "
        "pipe steps (diamonds) far in z and near in p, and the drift of the pose under its bar.",
        "visible displacement (rank), the best constant (error), a coin (asymmetry, pipes), one whole step (algebra)",
        ("calibration", "drift", "disagreement"),
        (
            Row("reach.spearman", "rank correlation of d_p and true distance", "{:.3f}"),
            Row("reach.mae", "mean absolute error of d_p, actions"),
            Row("reach.asymmetry", "one-way passages: the longer direction is known", "%"),
            Row("algebra.noop_ratio", "doing nothing moves the pose by, steps", "{:.3f}"),
            Row("algebra.inverse_residual", "an action and its inverse leave, steps", "{:.3f}"),
            Row("algebra.path_dependence", "the same actions in another order differ by, steps", "{:.3f}"),
            Row("algebra.drift", "odometry drift, actions per step", "{:.3f}"),
            Row("algebra.drift_imagined", "… of the imagined pose, actions per step", "{:.3f}"),
            Row("disagreement.auroc", "pipes told from ordinary steps, AUROC", "{:.3f}"),
        ),
    ),
    Section(
        "plan",
        "Can one plan here?",
        "Held-out starts and goals, none solved at the start: replaying a true shortest path must reach about 100 %, "
        "doing nothing 0 %, and a planner is worth its cost only far above wandering at random.",
        "wandering at random, on the same pairs",
        ("planning",),
        (
            Row("planning.best.success", "goals reached by the best planner", "%"),
            Row("planning.best.success_end", "… and still there at the end", "%"),
            Row("planning.best.path_ratio", "steps over the fewest possible, where reached", "{:.3f}"),
            Row("planning.cem.success", "goals reached by CEM", "%"),
        ),
    ),
)

MAP_READ = (
    "Lines join the places that can be reached from the marked start in the same number of actions. "
    "Left, as the model believes; right, as it is. Dashed: pipes. Where the model is right, the two maps agree."
)

ALSO = {
    "coverage": "Where the recording has been: a place never seen cannot be known.",
    "actions": "Length and direction of each action's mean effect; one vector per action fits where spread is small.",
    "training": "Every loss of the training run; faint: as written, strong: smoothed.",
}

PLANNER_COLUMNS = (
    ("success", "reached", "%"),
    ("success_end", "at the end", "%"),
    ("path_ratio", "path ratio", "{:.3f}"),
    ("steps", "steps", "{:.1f}"),
    ("evaluations", "imagined steps per pair", "{:,.0f}"),
    ("seconds", "seconds", "{:.1f}"),
)
