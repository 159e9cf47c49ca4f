"""One training step: forward, one backward, clip, update, schedule, slow branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isochrone.core.errors import UserError, did_you_mean
from isochrone.core.gradient import stop_gradient
from isochrone.core.types import Batch
from isochrone.train.config import TrainConfig, factor, scales
from isochrone.train.monitor import Guard

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricOptimizer

__all__ = ["Stepper", "Trained", "TrainConfig"]


class Trained(Protocol):
    """What is trained: `objectives.total.TrainingObjective`, or any nn.Module of this shape.

    `model` is the nn.Module that a checkpoint holds, with `groups() -> {name: [parameters]}` and `after_step()`.
    """

    model: Any

    def __call__(self, batch: Batch, rng: torch.Generator) -> tuple[Float[Tensor, ""], dict[str, Tensor]]: ...  # noqa: F722
    def named_parameters(self) -> Any: ...
    def state_dict(self) -> dict[str, Tensor]: ...


def parameter_groups(total: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW's groups, one per group of the model, each with its `scale`; parameters of `total` outside the model last.

    UserError when `lr_scale` names a group that the model does not have, or when nothing can be trained.
    """
    groups = dict(cast(Any, total).model.groups())
    wanted = scales(config.lr_scale)
    for name in wanted:
        if name not in groups:
            raise UserError(
                f"lr_scale names the group '{name}', which this model does not have{did_you_mean(name, groups)}"
            )
    inside = {id(p) for ps in groups.values() for p in ps}
    groups[""] = [p for p in total.parameters() if id(p) not in inside]
    spans = cast(Any, total).group_spans() if hasattr(total, "group_spans") else {}
    made = []
    for name, parameters in groups.items():
        moving = [p for p in parameters if p.requires_grad]
        if moving:
            span = spans.get(name, (0.0, 1.0))
            made.append({"params": moving, "name": name, "scale": wanted.get(name, 1.0), "span": span})
    if not made:
        raise UserError("this model has no parameter that can be trained")
    return made


class Stepper:
    """Holds the optimiser and makes steps; `count` steps are complete. Nothing waits for a GPU."""

    def __init__(self, total: nn.Module, config: TrainConfig, fabric: Fabric) -> None:
        self.total, self.config, self.fabric = total, config, fabric
        self.count = 0
        self.guard = Guard(config.explode)
        fabric.setup_module(total)  # moves it to the device
        self.optimizer = torch.optim.AdamW(
            parameter_groups(total, config),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,  # one call for all parameters
        )
        self._prepared = cast("_FabricOptimizer", fabric.setup_optimizers(self.optimizer))

    def __call__(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """One step on `batch`; returns the total's metrics with `loss` and `grad_norm`, as scalars () on the device.

        `rng` serves the terms that draw. Raises `guard.Diverged`; on the CPU the weights are then still good.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if hasattr(self.total, "set_progress") and cast(Any, self.total).set_progress(self.count / self.config.steps):
            self.guard.restart()
        with self.fabric.autocast():
            loss, told = self.total(batch, rng)
        loss = loss.float()
        self.fabric.backward(loss)
        # an infinite bound measures the norm and leaves the gradient alone
        norm = self.fabric.clip_gradients(
            self.total, self._prepared, max_norm=self.config.clip or float("inf"), error_if_nonfinite=False
        )
        metrics = {**told, "loss": stop_gradient(loss, "a number to report"), "grad_norm": cast(Tensor, norm)}
        self.guard.watch(self.count + 1, batch, metrics["loss"], metrics["grad_norm"], told)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor(self.count + 1, self.config, group["span"]) * group["scale"]
        self._prepared.step()
        self.count += 1
        cast(Any, self.total).model.after_step()
        return metrics

    @property
    def rate(self) -> float:
        """The learning rate of the last update, before the groups' own multiples."""
        return self.config.lr * factor(max(1, self.count), self.config)

    # --- state, for checkpoints -------------------------------------------------------------------

    def _names(self) -> dict[int, str]:
        return {id(p): name for name, p in self.total.named_parameters()}

    def state(self) -> dict[str, Any]:
        """Optimiser state by parameter name, the guard's memory, and what `total` keeps outside its model."""
        names = self._names()
        moments = {names[id(p)]: dict(values) for p, values in self.optimizer.state.items()}
        own = {k: v for k, v in self.total.state_dict().items() if not k.startswith("model.")}
        return {"count": self.count, "optimizer": moments, "guard": self.guard.state(), "total": own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. UserError when it was written for other parameters."""
        stored, names = state["optimizer"], self._names()
        order = [names[id(p)] for g in self.optimizer.param_groups for p in g["params"]]
        strange = sorted(set(stored) - set(order))
        if strange:
            raise UserError(
                f"the checkpoint holds optimiser state for '{strange[0]}', which is not trained here: "
                "resume with the config and the code that the run was started with"
            )
        blank = self.optimizer.state_dict()
        blank["state"] = {i: dict(stored[name]) for i, name in enumerate(order) if name in stored}
        self.optimizer.load_state_dict(blank)
        own = state.get("total", {})
        if own:
            self.total.load_state_dict(own, strict=False)
        self.guard.restore(state["guard"])
        self.count = int(state["count"])
