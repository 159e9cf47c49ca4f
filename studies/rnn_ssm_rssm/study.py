"""Why both a memory and chance? A ball that goes left or right by chance, or as a lamp has said."""

from isochrone.studies.plan import Cell, Study

CELLS: list[Cell] = []
for seed in range(5):
    for variant in ("split", "memory"):
        for model in ("rnn", "ssm", "rssm"):
            changes = {"env.variant": variant, "model": model, "eval.seed": str(100 + seed)}
            CELLS.append(Cell(f"{model}-{variant}-{seed}", "bouncer", changes, seed, f"{model}-{variant}"))

MODELS = {"rnn": "RNN (memory only)", "ssm": "SSM (chance only)", "rssm": "RSSM (both)"}
WORLDS = {"split": "chance decides the side", "memory": "a lamp said the side 12 rows ago"}
STUDY = Study(
    title="memory, chance, or both",
    question="A ball falls, then goes left or right. Where chance decides, does the model keep both futures? Where a "
    "lamp decided long before, does it remember?",
    cells=CELLS,
    roles={f"{m}-{w}": f"{said}: {what}" for w, what in WORLDS.items() for m, said in MODELS.items()},
)
