"""One training step: forward, one backward, and for each part of the learner clip, schedule and update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.core.errors import UserError
from isochrone.core.gradient import stop_gradient
from isochrone.core.types import Batch
from isochrone.training.config import TrainConfig
from isochrone.training.learner import Learner
from isochrone.training.monitor import Guard
from isochrone.training.optim import OptimConfig, make_optimizers

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Objective(Protocol):
    """What is minimised: a `losses.objective.TrainingObjective`, or any nn.Module of this shape.

    Called with a batch and a generator for all sampling inside, it returns the loss () and numbers for the log.
    """

    learner: Any

    def __call__(self, batch: Batch, rng: torch.Generator) -> tuple[Float[Tensor, ""], dict[str, Tensor]]: ...  # noqa: F722


@runtime_checkable
class Staged(Protocol):
    """An objective whose losses are active for a part of the training only."""

    def set_progress(self, progress: float) -> bool: ...
    def group_spans(self) -> Mapping[str, tuple[float, float]]: ...


class Stepper:
    """Owns the optimisers and makes steps; `count` steps are complete. Nothing waits for a GPU."""

    def __init__(
        self, objective: nn.Module, config: TrainConfig, optim: Mapping[str, OptimConfig], fabric: Fabric
    ) -> None:
        self.objective, self.config, self.fabric = objective, config, fabric
        self.learner: Learner = cast(Any, objective).learner
        self.count = 0
        self.guard = Guard(config.divergence_factor)
        fabric.setup_module(objective)  # moves it to the device
        spans = objective.group_spans() if isinstance(objective, Staged) else {}
        self.optimizers = make_optimizers(self.learner, optim, spans, config.steps, fabric)

    def __call__(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """One step on `batch`; returns the objective's numbers with `loss` and `grad_norm`, scalars () on the device.

        With several parts `grad_norm/PART` is each one's norm. `rng` serves losses that draw. Raises
        `monitor.Diverged`; on the CPU the weights are then still good.
        """
        for part in self.optimizers.values():
            part.optimizer.zero_grad(set_to_none=True)
        if isinstance(self.objective, Staged) and self.objective.set_progress(self.count / self.config.steps):
            self.guard.restart()
        with self.fabric.autocast():
            loss, logged = self.objective(batch, rng)
        loss = loss.float()
        self.fabric.backward(loss)
        norms = {name: part.clip(self.objective) for name, part in self.optimizers.items()}
        metrics = {**logged, "loss": stop_gradient(loss, "a number to report"), **_combined(norms)}
        self.guard.watch(self.count + 1, batch, metrics["loss"], metrics["grad_norm"], logged)
        self.count += 1
        for part in self.optimizers.values():
            part.step(self.count)
        self.learner.after_step()
        return metrics

    def rates(self) -> dict[str, float]:
        """The learning rates of the last update, before the groups' own multiples: 'lr', and 'lr/PART' of others."""
        step = max(1, self.count)
        return {"lr" if name == "model" else f"lr/{name}": part.lr(step) for name, part in self.optimizers.items()}

    # --- state, for checkpoints -------------------------------------------------------------------

    def _names(self) -> dict[int, str]:
        return {id(p): name for name, p in self.learner.named_parameters()}

    def state(self) -> dict[str, Any]:
        """Optimiser state by parameter name, and the guard's memory."""
        names = self._names()
        states = (part.optimizer.state for part in self.optimizers.values())
        moments = {names[id(p)]: dict(values) for state in states for p, values in state.items()}
        return {"count": self.count, "optimizer": moments, "guard": self.guard.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. UserError when it was written for other parameters."""
        stored, names = state["optimizer"], self._names()
        order = {name: [names[id(p)] for p in part.weights()] for name, part in self.optimizers.items()}
        unknown = sorted(set(stored).difference(*order.values()))
        if unknown:
            raise UserError(
                f"the checkpoint holds optimiser state for '{unknown[0]}', which is not trained here: "
                "resume with the config and the code that the run was started with"
            )
        self._check_moments(stored)
        for name, part in self.optimizers.items():
            blank = part.optimizer.state_dict()
            blank["state"] = {i: dict(stored[weight]) for i, weight in enumerate(order[name]) if weight in stored}
            part.optimizer.load_state_dict(blank)
        self.guard.restore(state["guard"])
        self.count = int(state["count"])
        if isinstance(self.objective, Staged):  # as at the last step, so that the next one restarts no running median
            self.objective.set_progress(max(0, self.count - 1) / self.config.steps)

    def _check_moments(self, stored: Mapping[str, Mapping[str, Tensor]]) -> None:
        """UserError where the averages of a weight have another shape than the weight: torch would not notice."""
        for name, weight in self.learner.named_parameters():
            for key, value in stored.get(name, {}).items():
                if key != "step" and value.shape != weight.shape:
                    raise UserError(
                        f"the checkpoint holds '{key}' of shape {list(value.shape)} for the weight '{name}' of shape "
                        f"{list(weight.shape)}: resume with the config and the code that the run was started with"
                    )


def _combined(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The norm over all parts; with several parts also that of each."""
    if len(norms) == 1:
        return {"grad_norm": next(iter(norms.values()))}
    return {"grad_norm": torch.stack(list(norms.values())).norm(), **{f"grad_norm/{n}": v for n, v in norms.items()}}
