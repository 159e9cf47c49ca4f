"""The first study: can one learn where one can go, and plan there? The white-box world, where the truth is known."""

from isochrone.studies.plan import Cell, Study

MAPS = ("pipes", "one-way", "four-rooms")
CELLS = []

# The recipe on three maps. Seeds outermost: after a third of the time there is a first answer for every map.
# Every seed measures with its own recording and its own held-out pairs; all recipes of a seed share them.
for seed in range(5):
    for name in MAPS:
        changes = {"env.map": name, "eval.seed": str(100 + seed)}
        CELLS.append(Cell(f"zhp-{name}-{seed}", "zhp", changes, seed, name))

for seed in range(3):
    held = {"eval.seed": str(100 + seed)}
    # a user's own map, which no choice of the recipe was ever made on
    own = {"env.map_file": "studies/whitebox/own_map.txt", **held}
    CELLS.append(Cell(f"zhp-own-map-{seed}", "zhp", own, seed, "own-map"))
    # hidden velocity: the belief must hold what one frame does not show
    gliding = {"env.map": "four-rooms", "env.momentum": "true", **held, "eval.pairs": "0"}
    CELLS.append(Cell(f"zhp-momentum-{seed}", "zhp", gliding, seed, "momentum"))
    # the notes' own list of losses, and their literal pose as the negative control
    CELLS.append(Cell(f"seed002-pipes-{seed}", "zhp_seed002", {"env.map": "pipes", **held}, seed, "seed002"))
    forced = {"env.map": "pipes", "force": "true", **held}
    CELLS.append(Cell(f"running-sum-pipes-{seed}", "zhp_running_sum", forced, seed, "running-sum"))

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
        "momentum": "zhp on four-rooms with momentum",
        "seed002": "the notes' losses (zhp_seed002) on pipes",
        "running-sum": "negative control: the notes' running-sum pose on pipes, forced",
    },
    # 500 pairs with the recipe's planner and CEM; nothing is measured while training, which would only take time
    changes={"eval.pairs": "500", "compare": "cem", "train.eval_every": "0"},
)
