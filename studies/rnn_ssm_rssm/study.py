"""Why both a memory and randomness? A ball that goes left or right at random, or as a lamp indicated."""

from studies.harness.study import Cell, Study

MEMORY = {"env.episode_length": "22", "train.length": "23", "data.rows": "230", "eval.length": "23"}
# Images predicted many steps ahead: where the future is certain they train all three models; where it is not, the best
# guess is the mean, which is all that an RNN has. Its prior has no likelihood, so it is trained by them everywhere.
# half as many training steps, since each costs more
AHEAD = {"model.rollout_starts": "1", "model.decode_rows": "4", "train.steps": "1500"}
SPLIT = {**AHEAD, "loss.overshoot_image": "0.2", "model.overshoot": "8"}
MEMORY |= {**AHEAD, "loss.overshoot_image": "1", "model.overshoot": "16", "loss.image": "4"}

CELLS: list[Cell] = []
for seed in range(5):
    for model in ("rnn", "ssm", "rssm"):
        shared = {"model": model, "eval.seed": str(100 + seed)}
        split = {**shared, "env.variant": "split", **(SPLIT if model == "rnn" else {})}
        CELLS.append(Cell(f"{model}-split-{seed}", "bouncer", split, seed, f"{model}-split"))
        memory = {**shared, "env.variant": "memory", **MEMORY}
        CELLS.append(Cell(f"{model}-memory-{seed}", "bouncer", memory, seed, f"{model}-memory"))

MODELS = {"rnn": "RNN (memory only)", "ssm": "SSM (randomness only)", "rssm": "RSSM (both)"}
VARIANTS = {"split": "the side is random", "memory": "a lamp showed the side 12 rows ago"}
STUDY = Study(
    title="memory, randomness, or both",
    question="A ball falls, then goes left or right. Where the side is random, does the model keep both futures? "
    "Where a lamp showed it long before, does the model remember?",
    finding="Only the RSSM does both. Where the side is random, an RNN predicts a blur in "
    "{rnn-split:multimodality.no_mode} of its futures, SSM and RSSM in {ssm-split:multimodality.no_mode} and "
    "{rssm-split:multimodality.no_mode}. Where the lamp must be remembered, the right side is predicted in "
    "{rnn-memory:multimodality.correct_mode} (RNN), {ssm-memory:multimodality.correct_mode} (SSM) and "
    "{rssm-memory:multimodality.correct_mode} (RSSM) of the futures.",
    figure=("multimodality.no_mode", "multimodality.correct_mode", "openloop_pixels.error_end"),
    cells=CELLS,
    roles={f"{m}-{v}": f"{name}: {text}" for v, text in VARIANTS.items() for m, name in MODELS.items()},
)
