"""Why both a memory and chance? A ball that goes left or right by chance, or as a lamp has said."""

from isochrone.studies.plan import Cell, Study

MEMORY = {"env.episode_length": "22", "train.length": "23", "data.rows": "230", "eval.length": "23"}
# images foretold 16 steps ahead: where the future is certain they teach all three; where it is not, their best guess is
# the mean, which is all that an RNN has. Its prior has no likelihood of its own, so it is trained by them everywhere
AHEAD = {"loss.overshoot_image": "0.2", "model.overshoot": "16", "model.starts": "1", "model.decode": "4"}
STEPS = {"train.steps": "1500"}  # half as many, for each costs twice as much

CELLS: list[Cell] = []
for seed in range(5):
    for model in ("rnn", "ssm", "rssm"):
        more = {"env.variant": "split", "model": model, "eval.seed": str(100 + seed)}
        CELLS.append(
            Cell(
                f"{model}-split-{seed}",
                "bouncer",
                {**more, **(AHEAD | STEPS if model == "rnn" else {})},
                seed,
                f"{model}-split",
            )
        )
        more |= {**MEMORY, **AHEAD, **STEPS, "env.variant": "memory"}
        CELLS.append(Cell(f"{model}-memory-{seed}", "bouncer", more, seed, f"{model}-memory"))

MODELS = {"rnn": "RNN (memory only)", "ssm": "SSM (chance only)", "rssm": "RSSM (both)"}
WORLDS = {"split": "chance decides the side", "memory": "a lamp said the side 12 rows ago"}
STUDY = Study(
    title="memory, chance, or both",
    question="A ball falls, then goes left or right. Where chance decides, does the model keep both futures? Where a "
    "lamp decided long before, does it remember?",
    cells=CELLS,
    roles={f"{m}-{w}": f"{said}: {what}" for w, what in WORLDS.items() for m, said in MODELS.items()},
)
