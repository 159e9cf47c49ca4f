"""Why both a memory and chance? A ball that goes left or right by chance, or as a lamp has said."""

from studies.harness.study import Cell, Study

MEMORY = {"env.episode_length": "22", "train.length": "23", "data.rows": "230", "eval.length": "23"}
# images foretold many steps ahead: where the future is certain they teach all three; where it is not, their best guess
# is the mean, which is all that an RNN has. Its prior has no likelihood of its own, so it is trained by them everywhere
AHEAD = {
    "model.rollout_starts": "1",
    "model.decode_rows": "4",
    "train.steps": "1500",
}  # half as many steps, for each costs more
SPLIT = {**AHEAD, "loss.overshoot_image": "0.2", "model.overshoot": "8"}
MEMORY |= {**AHEAD, "loss.overshoot_image": "1", "model.overshoot": "16", "loss.image": "4"}

CELLS: list[Cell] = []
for seed in range(5):
    for model in ("rnn", "ssm", "rssm"):
        told = {"model": model, "eval.seed": str(100 + seed)}
        split = {**told, "env.variant": "split", **(SPLIT if model == "rnn" else {})}
        CELLS.append(Cell(f"{model}-split-{seed}", "bouncer", split, seed, f"{model}-split"))
        memory = {**told, "env.variant": "memory", **MEMORY}
        CELLS.append(Cell(f"{model}-memory-{seed}", "bouncer", memory, seed, f"{model}-memory"))

MODELS = {"rnn": "RNN (memory only)", "ssm": "SSM (chance only)", "rssm": "RSSM (both)"}
WORLDS = {"split": "chance decides the side", "memory": "a lamp said the side 12 rows ago"}
STUDY = Study(
    title="memory, chance, or both",
    question="A ball falls, then goes left or right. Where chance decides, does the model keep both futures? Where a "
    "lamp decided long before, does it remember?",
    cells=CELLS,
    roles={f"{m}-{w}": f"{said}: {what}" for w, what in WORLDS.items() for m, said in MODELS.items()},
)
