"""The training loop: sample, step, report, evaluate, save; ends cleanly, resumes exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from isochrone.core import gate
from isochrone.core.config import validate
from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write, writing
from isochrone.core.protocols import Sink
from isochrone.core.types import Batch
from isochrone.training import checkpoint, tree
from isochrone.training.config import TrainConfig
from isochrone.training.device import compute_settings, generator, launch
from isochrone.training.monitor import Diverged, Meter, Stopwatch
from isochrone.training.optim import OptimConfig
from isochrone.training.run import Run
from isochrone.training.signals import stop_on_signal
from isochrone.training.step import Stepper

Sample = Callable[[torch.Generator], Batch]
Hook = Callable[[int, nn.Module], Mapping[str, Any]]


class Stateful(Protocol):
    """Something beside the learner that a checkpoint must contain: a replay cursor, a collector, a normaliser.

    The state is a nest of dicts with text keys (no '/') whose leaves are tensors or JSON values. Something that also
    has `flush()` (a replay on disk) is flushed before each checkpoint, so that the state never refers to lost rows.
    """

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...


@runtime_checkable
class Flushed(Protocol):
    """Something that keeps data on a disk."""

    def flush(self) -> None: ...


@runtime_checkable
class Drained(Protocol):
    """A source of batches with numbers for the log: those since the last call."""

    def drain(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class FitResult:
    """How a call of `fit` ended: at `step`, from `began`; `signal` names what stopped it early, or is empty."""

    step: int
    began: int
    signal: str
    checkpoint: Path

    @property
    def done(self) -> bool:
        return not self.signal


def fit(
    objective: nn.Module,
    sample: Sample,
    config: TrainConfig,
    optim: Mapping[str, OptimConfig],
    run: Run,
    sinks: Sequence[Sink] = (),
    hooks: Sequence[Hook] = (),
    stateful: Mapping[str, Stateful] | None = None,
    progress: Callable[[int], None] | None = None,
) -> FitResult:
    """Train the learner of `objective` to `config.steps`, from the newest checkpoint of `run` or its present weights.

    `objective` is a `TrainingObjective`, or any nn.Module of its shape (see `step.Objective`); `optim` holds the
    optimiser settings of each part of its learner. `sample(rng) -> Batch` draws from `rng` (CPU) only; state of
    its own belongs in `stateful`, which checkpoints store. The numbers of its `drain()`, if it has one, are added to
    each row of metrics. Hooks `(step, objective) -> {name: number}` run every `eval_every` steps and must not change
    the learner. `progress(step)` is called after each step. The caller opens and closes the sinks.
    A signal (see `signals.NAMES`) ends it after the current step with a checkpoint.
    UserError: bad config, diverged loss, full disk.
    """
    optim = {name: validate(settings, f"optim.{name}.") for name, settings in optim.items()}
    loop = Loop(objective, sample, validate(config), optim, run, sinks, hooks, stateful or {})
    devices = [loop.device] if loop.device.type == "cuda" else []
    with compute_settings(config), torch.random.fork_rng(devices), run.report_loss(), stop_on_signal() as request:
        began = loop.begin()
        while loop.stepper.count < loop.config.steps and not request:
            loop.advance()
            if progress is not None:
                progress(loop.stepper.count)
        folder = loop.save()
    step = loop.stepper.count
    return FitResult(step, began, request.signal_name if step < config.steps else "", folder)


class Loop:
    """The parts of `fit`, as methods that can be called alone."""

    def __init__(
        self,
        objective: nn.Module,
        sample: Sample,
        config: TrainConfig,
        optim: Mapping[str, OptimConfig],
        run: Run,
        sinks: Sequence[Sink],
        hooks: Sequence[Hook],
        stateful: Mapping[str, Stateful],
    ) -> None:
        self.objective, self.sample, self.config, self.optim, self.run = objective, sample, config, optim, run
        self.sinks, self.hooks, self.stateful = sinks, hooks, dict(stateful)
        self.fabric = launch(config)
        self.stepper = Stepper(objective, config, optim, self.fabric)
        self.device = self.fabric.device
        self.meter, self.watch = Meter(), Stopwatch()
        self.frames = self.since = 0
        self.saved: Path | None = None
        # 'ambient' is torch's own generator, from which modules such as nn.Dropout sample: stored, never seeded here
        self.random = {
            "sample": generator(config.seed, "sample"),
            "losses": generator(config.seed, "losses", self.device),
            "ambient": torch.default_generator,
        }
        if self.device.type == "cuda":
            self.random["ambient_gpu"] = torch.cuda.default_generators[self.device.index or 0]

    # --- beginning and saving ---------------------------------------------------------------------

    def begin(self) -> int:
        """Restore the newest checkpoint, or write the first (so a folder that cannot be written shows now)."""
        folder = self.run.newest().folder
        if folder is None:
            self.run.forget_after(0)
            self.save()
        else:
            step, state = checkpoint.load(folder, self.stepper.learner, self.run.config_hash)
            self._restore_from(folder, step, state)
            self.saved = folder
            self.run.forget_after(self.stepper.count)
            self.run.note_resumed(self.stepper.count)
        self.watch.read()
        return self.stepper.count

    def _restore_from(self, folder: Path, step: int, state: Mapping[str, Any]) -> None:
        """`restore`, where a state that does not fit is one sentence: it is as it was written, but not by this code."""
        path = folder / checkpoint.FILES[1]
        try:
            checkpoint.check_finite(tree.pack(state["stepper"])[0], path)
            self.restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{path} holds a state that this code cannot continue ({type(error).__name__}: {error}): "
                "resume with the code that wrote it"
            ) from error
        if self.stepper.count != step:
            raise UserError(f"{path} is of step {self.stepper.count}, its manifest of step {step}: it is another's")

    def state(self) -> dict[str, Any]:
        """Everything but the learner's weights."""
        return {
            "stepper": self.stepper.state(),
            "random": checkpoint.random_state(self.random),
            "meter": self.meter.state(),
            "stateful": {name: thing.state_dict() for name, thing in self.stateful.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. UserError when something is missing in it."""
        self.stepper.restore(state["stepper"])
        checkpoint.restore_random(self.random, state["random"], self.stepper.count)
        self.meter.restore(state["meter"], self.device)
        for name, thing in self.stateful.items():
            if name not in state["stateful"]:
                raise UserError(
                    f"the checkpoint holds no state of '{name}': it was written by another setup; start a new run"
                )
            thing.load_state_dict(state["stateful"][name])

    def save(self) -> Path:
        """A checkpoint of this step; writes nothing when it is there already."""
        step = self.stepper.count
        if self.saved is None or int(self.saved.name) != step:
            with self.watch.on("save"):
                try:
                    self.stepper.guard.drain()
                except Diverged as bad:
                    raise self.crash(bad) from None
                self.saved = self._save(self.run.checkpoints, self.config.keep)
        return self.saved

    def _save(self, root: Path, keep: int) -> Path:
        self.run.check_present()
        for thing in self.stateful.values():
            if isinstance(thing, Flushed):
                thing.flush()
        return checkpoint.save(root, self.stepper.count, self.stepper.learner, self.state(), keep, self.run.config_hash)

    # --- one step ---------------------------------------------------------------------------------

    def advance(self) -> None:
        """One step, and the reports, evaluations and checkpoints due after it."""
        with self.watch.on("data"):
            batch = self.sample(self.random["sample"])
            if self.device.type != "cpu":
                batch = batch.to(self.device)
        with self.watch.on("model"):
            try:
                metrics = self.stepper(batch, self.random["losses"])
            except Diverged as bad:
                raise self.crash(bad) from None
        with self.watch.on("log"):
            self.meter.add(metrics)
        self.frames += batch.shape[0] * batch.shape[1]
        self.since += 1
        step, config = self.stepper.count, self.config
        if step % config.log_every == 0 or step == config.steps:
            self.report(step)
        if self.hooks and config.eval_every and (step % config.eval_every == 0 or step == config.steps):
            self.evaluate(step)
        if config.save_every and step % config.save_every == 0:
            self.save()

    def report(self, step: int) -> None:
        """Means since the last report, rates and shares of time, to every sink."""
        if self.device.type == "cuda":
            with self.watch.on("model"):  # wait here, so that the GPU's work is not counted as logging
                torch.cuda.synchronize(self.device)
        with self.watch.on("log"):
            means = self.meter.means()
        # shares are of the interval that ends here; writing this row falls into the next one
        wall, shares = self.watch.read()
        timed = {f"time_{kind}": shares.get(kind, 0.0) for kind in ("data", "model", "log", "eval", "save")}
        rates = {"frames_per_s": self.frames / wall, "steps_per_s": self.since / wall}
        self.frames = self.since = 0
        with self.watch.on("log"):
            drained = self.sample.drain() if isinstance(self.sample, Drained) else {}
            self.write(step, {**means, **self.stepper.rates(), **rates, **timed, **drained})

    def evaluate(self, step: int) -> None:
        """The hooks' numbers, to every sink."""
        training = self.objective.training
        with self.watch.on("eval"):
            values: dict[str, Any] = {}
            for hook in self.hooks:
                values.update(hook(step, self.objective))
            self.objective.train(training)
        with self.watch.on("log"):
            self.write(step, values)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self.run.check_present()  # a sink would make a deleted folder again
        for sink in self.sinks:
            sink.write(step, values)

    # --- when it goes wrong -----------------------------------------------------------------------

    def crash(self, bad: Diverged) -> UserError:
        """Save batch and state under crash/ for looking at; the sentence to raise."""
        folder = gate.check_folder(self.run.path / "crash")
        with writing(folder):
            folder.mkdir(exist_ok=True)
        tensors, _ = tree.pack({name: getattr(bad.batch, name) for name in bad.batch.__dataclass_fields__})
        name = folder / f"batch-{bad.step:08d}.safetensors"
        atomic_write(name, checkpoint.tensor_bytes(tensors, {"step": str(bad.step), "why": bad.why}))
        self._save(folder, keep=1)
        optim = self.optim["model"]
        return UserError(
            f"training stopped at step {bad.step}: {bad.why}; the batch is in {name} and the weights beside it; "
            f"try a smaller optim.model.lr (now {optim.lr:g}) or clip (now {optim.clip:g}), or leave that loss out"
        )
