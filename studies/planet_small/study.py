"""Does PlaNet, made small, learn to reach a goal from pixels within 200 episodes?"""

from isochrone.studies.plan import Cell, Study

CELLS = [Cell(f"reach-{seed}", "planet_small", {"eval.seed": str(100 + seed)}, seed, "reach") for seed in range(3)]

STUDY = Study(
    title="a small PlaNet",
    question="Episodes of 50 actions in a cabin with two rooms, 1 for every action that ends on the goal: how "
    "much of the best possible return is earned after 200 episodes, 96 of them random?",
    cells=CELLS,
    roles={"reach": "white box: reach a goal"},
)
