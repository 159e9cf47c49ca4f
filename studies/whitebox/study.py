"""Can a model learn reachability from pixels, and plan with it? The white box, where the truth is known."""

from studies.harness.study import Cell, Study

CELLS: list[Cell] = []


def add(name: str, recipe: str, seed: int, role: str, changes: dict[str, str]) -> None:
    """Add one cell. Every seed has its own recording and its own held-out pairs; all recipes of a seed share them."""
    CELLS.append(Cell(f"{name}-{seed}", recipe, {"eval.seed": str(100 + seed), **changes}, seed, role))


# Seeds outermost: after a fifth of the time there is a first answer for every map.
for seed in range(5):
    add("zhp-pipes", "zhp", seed, "pipes", {"env.map": "pipes"})
    add("zhp-one-way", "zhp", seed, "one-way", {"env.map": "one-way"})
for seed in range(5):
    add("zhp-four-rooms", "zhp", seed, "four-rooms", {"env.map": "four-rooms"})
for seed in range(3):
    # the original list of losses, and its literal pose as the negative control: plans that fail take longest
    few = {"env.map": "pipes", "eval.pairs": "100", "compare_planners": ""}
    add("original-pipes", "zhp_original", seed, "original", few)
    add("summed-pose-pipes", "zhp_summed_pose", seed, "summed-pose", {**few, "allow_dead_losses": "true"})
for seed in range(3):
    # a user's own map, which the recipe was never tuned on
    add("zhp-own-map", "zhp", seed, "own-map", {"env.map_file": "studies/whitebox/own_map.txt"})
    # hidden velocity: h must contain what one frame does not show
    momentum = {"env.map": "four-rooms", "env.momentum": "true", "eval.pairs": "0"}
    add("zhp-momentum", "zhp_hidden", seed, "momentum", momentum)

STUDY = Study(
    order=0,
    title="reachability and planning in the white box",
    question="From pixels and actions alone: is z perceptual, is p reachability, and do plans made in p succeed? On "
    "three maps, on a map the recipe was never tuned on, with hidden velocity, and with the original losses and pose.",
    finding="Yes. On three maps d_p ranks places like the true number of actions ({pipes:reach.spearman} on pipes, "
    "error {pipes:reach.mae} actions), and the best planner reaches {pipes:planning.best.success} of held-out goals; "
    "its paths are {pipes:planning.best.path_ratio} times as long as the shortest. On a new map it is "
    "{own-map:planning.best.success}. With the original losses it is {original:planning.best.success}; the original "
    "pose is refused, because two of its losses are identities.",
    withdrawn={
        "disagreement.auroc": "pipes were compared with single ordinary steps, between which d_p is about 1 whatever "
        "p is: a constant p scored as high as a true one. They are now compared with pairs that look as far apart; the "
        "study is to be trained again.",
    },
    figure=("reach.spearman", "reach.mae", "planning.best.success"),
    cells=CELLS,
    roles={
        "pipes": "zhp on pipes",
        "one-way": "zhp on one-way",
        "four-rooms": "zhp on four-rooms",
        "own-map": "zhp on a user's own map",
        "momentum": "zhp_hidden on four-rooms with momentum",
        "original": "the original losses (zhp_original) on pipes",
        "summed-pose": "negative control: the original summed pose on pipes, forced",
    },
    # 500 pairs with the recipe's planner and CEM; nothing is measured while training, which would only take time
    changes={"eval.pairs": "500", "compare_planners": "cem", "train.eval_every": "0"},
)
