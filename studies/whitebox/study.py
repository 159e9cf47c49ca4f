"""The first study: can one learn where one can go, and plan there? The white-box world, where the truth is known."""

from studies.harness.study import Cell, Study

CELLS: list[Cell] = []


def add(name: str, recipe: str, seed: int, role: str, changes: dict[str, str]) -> None:
    """One cell. Every seed has its own recording and its own held-out pairs; all recipes of a seed share them."""
    CELLS.append(Cell(f"{name}-{seed}", recipe, {"eval.seed": str(100 + seed), **changes}, seed, role))


# Seeds outermost: after a fifth of the time there is a first answer for every map.
for seed in range(5):
    add("zhp-pipes", "zhp", seed, "pipes", {"env.map": "pipes"})
    add("zhp-one-way", "zhp", seed, "one-way", {"env.map": "one-way"})
for seed in range(5):
    add("zhp-four-rooms", "zhp", seed, "four-rooms", {"env.map": "four-rooms"})
for seed in range(3):
    # the notes' own list of losses, and their literal pose as the negative control: plans that fail take longest
    few = {"env.map": "pipes", "eval.pairs": "100", "compare_planners": ""}
    add("seed002-pipes", "zhp_original", seed, "seed002", few)
    add("running-sum-pipes", "zhp_summed_pose", seed, "running-sum", {**few, "allow_dead_losses": "true"})
for seed in range(3):
    # a user's own map, which no choice of the recipe was ever made on
    add("zhp-own-map", "zhp", seed, "own-map", {"env.map_file": "studies/whitebox/own_map.txt"})
    # hidden velocity: the belief must hold what one frame does not show
    gliding = {"env.map": "four-rooms", "env.momentum": "true", "eval.pairs": "0"}
    add("zhp-momentum", "zhp_hidden", seed, "momentum", gliding)

STUDY = Study(
    title="z sees, p counts actions, and one can plan",
    question="From pixels and actions alone: is z perceptual, is p reachability, and do plans made in p succeed? "
    "On three maps, on a map the recipe never saw, with hidden velocity, and with the losses and pose of the notes.",
    cells=CELLS,
    roles={
        "pipes": "zhp on pipes",
        "one-way": "zhp on one-way",
        "four-rooms": "zhp on four-rooms",
        "own-map": "zhp on a map of one's own, never tuned for",
        "momentum": "zhp_hidden on four-rooms with momentum",
        "seed002": "the notes' losses (zhp_original) on pipes",
        "running-sum": "negative control: the notes' running-sum pose on pipes, forced",
    },
    # 500 pairs with the recipe's planner and CEM; nothing is measured while training, which would only take time
    changes={"eval.pairs": "500", "compare_planners": "cem", "train.eval_every": "0"},
)
