"""The loop: rows, hooks, resume in one process, crash, time shares."""

import json
import os
import resource
import shutil
from contextlib import ExitStack, closing

import pytest
import torch
import toy
from safetensors.torch import load_file

from isochrone.core.errors import UserError
from isochrone.training import checkpoint
from isochrone.training.config import TrainConfig
from isochrone.training.loop import fit
from isochrone.training.monitor import Meter, Stopwatch
from isochrone.training.optim import OptimConfig
from isochrone.training.run import Run
from isochrone.training.sinks import Jsonl, open_sinks


def settings(**changes):
    fast = {"steps": 30, "log_every": 10, "save_every": 8}
    return TrainConfig(**{**fast, "accelerator": "cpu", **changes})


OPTIM = {"model": OptimConfig(lr=1e-2, warmup=5, schedule="cosine")}


def train(path, config, total=None, hooks=(), progress=None):
    known = (path / "config.json").exists()
    with Run.open(path) if known else Run.create(path, {}) as run:
        reader, sink = toy.Reader(), Jsonl(Jsonl.Config(), run)
        total = total or toy.ToyObjective()
        done = fit(total, reader, config, OPTIM, run, [sink], hooks, {"reader": reader}, progress)
        sink.close()
        return done, total, reader, run.rows()


class Enough(Exception):
    pass


def stop_at(step):
    def progress(now):
        if now == step:
            raise Enough

    return progress


def untimed(rows):
    return [{k: v for k, v in r.items() if not k.startswith("time_") and not k.endswith("_per_s")} for r in rows]


def test_resumed_equals_uninterrupted(tmp_path):
    whole, a, reader, rows = train(tmp_path / "whole", settings())
    for step in (3, 11, 23):  # before the first checkpoint, and between checkpoints and rows
        with pytest.raises(Enough):
            train(tmp_path / "cut", settings(), progress=stop_at(step))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2')
    done, b, again, same = train(tmp_path / "cut", settings())
    assert done.began == 16
    assert done.step == whole.step == 30
    assert done.done
    for name in ("weights.safetensors", "trainer.safetensors"):
        assert (whole.checkpoint / name).read_bytes() == (done.checkpoint / name).read_bytes()
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert untimed(same) == untimed(rows)
    assert again.cursor == reader.cursor == 30
    assert reader.flushed > 2
    assert len(json.loads((tmp_path / "cut" / "versions.json").read_text())["resumed"]) == 3
    finished, *_ = train(tmp_path / "cut", settings())
    assert finished.began == finished.step == 30
    assert finished.done


def test_rows_and_hooks(tmp_path):
    asked = []

    def hook(step, total):
        asked.append((step, total.training))
        total.eval()
        return {"probe": torch.tensor(step / 2), "map": torch.ones(2, 2)}

    _, total, _, rows = train(tmp_path, settings(eval_every=12, steps=25), hooks=[hook])
    assert asked == [(12, True), (24, True), (25, True)]
    assert total.training
    assert [r["step"] for r in rows] == [10, 12, 20, 24, 25, 25]
    assert rows[1] == {
        "step": 12,
        "probe": 6.0,
        "map": [[1, 1]] * 2,
    }
    assert rows[0].keys() >= {
        "loss",
        "loss/size",
        "grad_norm",
        "lr",
        "frames_per_s",
        "steps_per_s",
        "time_data",
        "time_log",
    }
    shares = [rows[0][f"time_{kind}"] for kind in ("data", "model", "log", "eval", "save")]
    # the rest is the loop itself, more of it on a busy machine
    assert 0.5 < sum(shares) <= 1.0
    assert min(shares) >= 0
    assert rows[0]["frames_per_s"] == pytest.approx(rows[0]["steps_per_s"] * 24)
    assert checkpoint.steps(tmp_path / "checkpoints") == [24, 25]


def test_a_bad_loss_leaves_batch_and_weights_behind(tmp_path):
    with pytest.raises(
        UserError, match="stopped at step 21: loss 'size' is not a number; the batch is in .*batch-00000021"
    ):
        train(tmp_path, settings(), toy.ToyObjective(poison={21: float("nan")}))
    batch = load_file(tmp_path / "crash" / "batch-00000021.safetensors")
    assert batch["obs/state"].shape == (4, 6, 4)
    assert batch["first"].dtype == torch.bool
    total = toy.ToyObjective()
    step, state = checkpoint.load(tmp_path / "crash" / "00000020", total.learner)
    assert step == 20
    assert state["stateful"]["reader"]["cursor"] == 21
    assert all(torch.isfinite(v).all() for v in total.state_dict().values())
    assert checkpoint.steps(tmp_path / "checkpoints") == [8, 16]
    with pytest.raises(UserError, match="running median"):
        train(tmp_path / "b", settings(steps=40, divergence_factor=50), toy.ToyObjective(poison={35: 1e9}))


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step):
        if step == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))

    try:
        with pytest.raises(UserError, match="the disk is full: could not write .*00000024.*intact"):
            train(tmp_path / "full", settings(log_every=50), progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.steps(tmp_path / "full" / "checkpoints") == [8, 16]
    done, *_ = train(tmp_path / "full", settings(log_every=50))
    whole, *_ = train(tmp_path / "whole", settings(log_every=50))
    weights = [(d.checkpoint / "weights.safetensors").read_bytes() for d in (done, whole)]
    assert done.began == 16
    assert weights[0] == weights[1]


def test_zero_steps_and_strange_checkpoints_are_refused(tmp_path):
    with pytest.raises(UserError, match="steps = 0"):
        train(tmp_path / "a", settings(steps=0))
    train(tmp_path / "b", settings(steps=2))
    with pytest.raises(UserError, match="holds another learner"):
        train(tmp_path / "b", settings(), toy.ToyObjective(width=5))
    with Run.open(tmp_path / "b") as run, pytest.raises(UserError, match="no state of 'replay'"):
        fit(toy.ToyObjective(), toy.sample, settings(), OPTIM, run, stateful={"replay": toy.Reader()})


def test_nothing_is_read_twice_or_seeded(tmp_path):
    """The loop leaves torch's own generator alone, and asks for one batch per step."""
    before = torch.get_rng_state()
    _, _, reader, _ = train(tmp_path, settings(steps=7))
    assert reader.cursor == 7
    assert torch.equal(torch.get_rng_state(), before)


def test_meter_and_stopwatch():
    meter, other = Meter(), Meter()
    meter.add({"a": torch.tensor(1.0), "b/c": torch.tensor(5.0)})
    other.restore(meter.state())
    for m in (meter, other):
        m.add({"a": torch.tensor(2.0)})
    assert meter.means() == other.means() == {"a": 1.5, "b/c": 5.0}
    assert meter.means() == {}
    now = iter([0.0, 1.0, 3.0, 4.0, 5.0, 5.0]).__next__
    watch = Stopwatch(now)
    with watch.on("x"):
        pass
    assert watch.read() == (4.0, {"x": 0.5})


# --- the folder is taken away


def gone(path, config=None, sinks=("jsonl",), at=12, away=shutil.rmtree):
    """The sentence with which a training ends whose folder is taken away after step `at`."""

    def progress(now):
        if now == at:
            away(path)

    with Run.create(path, {}) as run, pytest.raises(UserError) as caught:
        with run.report_loss(), ExitStack() as stack:
            opened = [stack.enter_context(closing(sink)) for sink in open_sinks(sinks, run, 30)]
            reader = toy.Reader()
            fit(toy.ToyObjective(), reader, config or settings(), OPTIM, run, opened, (), {"reader": reader}, progress)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sinks", [("jsonl",), ("jsonl", "tensorboard")])
@pytest.mark.parametrize("at", [12, 30])  # before a row of metrics, and after the last step
def test_a_deleted_folder_ends_training_with_a_sentence(tmp_path, sinks, at):
    said = gone(tmp_path / "run", sinks=sinks, at=at)
    assert said.startswith(f"the run folder {tmp_path / 'run'} was moved or deleted during training")
    assert not (tmp_path / "run").exists()  # and nothing makes it again


def test_a_moved_folder_ends_training_and_can_be_continued(tmp_path):
    said = gone(tmp_path / "run", away=lambda path: path.rename(tmp_path / "there"))
    assert "continue where it is now with --resume" in said
    assert not (tmp_path / "run").exists()
    done, *_ = train(tmp_path / "there", settings())
    assert done.done
    assert done.began == 8


def test_a_lost_checkpoint_folder_that_cannot_be_made_again_is_named(tmp_path):
    def replace_by_a_file(path):
        shutil.rmtree(path / "checkpoints")
        (path / "checkpoints").write_text("")

    said = gone(tmp_path / "run", away=replace_by_a_file)
    assert said.startswith(f"{tmp_path / 'run' / 'checkpoints'} is not a folder")


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_without_permission_ends_training_with_a_sentence(tmp_path):
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:2]:
        above.chmod(0o755)
    try:
        said = gone(tmp_path / "run", away=lambda path: os.seteuid(65534))
        os.seteuid(0)
        assert "(Permission denied)" in said
        said = gone(tmp_path / "other", away=lambda path: (path.chmod(0o700), os.seteuid(65534)))
        assert "became inaccessible (Permission denied)" in said
    finally:
        os.seteuid(0)


def test_an_error_of_something_else_is_not_the_folder_s(tmp_path):
    def fail(now):
        raise FileNotFoundError(2, "no such recording", "/elsewhere/a.h5")

    with pytest.raises(FileNotFoundError, match="no such recording"):
        train(tmp_path / "run", settings(), progress=fail)


# --- the running median after a resume


class Stages(toy.ToyObjective):
    """Two losses, one of which ends at a third of the training."""

    active = frozenset({"early", "late"})  # as a new objective has it: every loss

    def set_progress(self, progress):
        now = frozenset({"early", "late"}) if progress < 0.3 else frozenset({"late"})
        changed, self.active = now != self.active, now
        return changed

    def group_spans(self):
        return {}


def test_the_running_median_goes_on_after_a_resume(tmp_path):
    train(tmp_path / "whole", settings(), total=Stages())
    with pytest.raises(Enough):
        train(tmp_path / "cut", settings(), total=Stages(), progress=stop_at(20))
    train(tmp_path / "cut", settings(), total=Stages())
    states = [checkpoint.load_state(tmp_path / name / "checkpoints" / "00000030") for name in ("whole", "cut")]
    whole, cut = (state["stepper"]["guard"]["recent"] for state in states)
    assert len(whole) == 21  # since the change of losses
    assert torch.equal(whole, cut)
