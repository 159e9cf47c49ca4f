"""Optimisers: settings of one part of the learner, learning-rate schedule, LaProp, adaptive gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from isochrone.core.config import option
from isochrone.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricOptimizer

    from isochrone.training.learner import Learner

AGC_MIN_NORM = 1e-3  # a weight tensor of a smaller norm counts as this, so that one that starts at zero can grow

Span = tuple[float, float]
"""(start, stop) between which a group of weights is updated, as fractions of the training."""


@dataclass(frozen=True)
class OptimConfig:
    """How the weights of one part of the learner are updated."""

    optimizer: Literal["adamw", "laprop"] = option("adamw", "AdamW, or LaProp (Ziyin et al. 2020)")
    lr: float = option(3e-4, "learning rate after the warm-up", gt=0)
    warmup: int = option(0, "steps over which the learning rate rises from 0", ge=0)
    schedule: Literal["constant", "cosine", "linear"] = option("constant", "course of the learning rate afterwards")
    final_lr: float = option(0.0, "fraction of lr left at the last step (cosine, linear)", ge=0, le=1)
    lr_scale: tuple[str, ...] = option((), "learning rate of single groups as a multiple of lr: 'pose:0.1,z2h:2'")
    clip: float = option(1.0, "largest norm of the gradient of this part; 0: no clipping", ge=0)
    agc: float = option(0.0, "largest norm of a tensor's gradient as a multiple of the tensor's norm; 0: off", ge=0)
    weight_decay: float = option(0.0, "decoupled weight decay", ge=0)
    betas: tuple[float, float] = option(
        (0.9, 0.999), "decay of the averages of gradient and squared gradient", ge=0, lt=1
    )
    eps: float = option(1e-8, "added to the root of the averaged square", gt=0)

    def check(self, path: str = "") -> None:
        """Cross-field rules, called by `core.config.validate`. UserError."""
        if not math.isfinite(self.lr):
            raise UserError(f"{path}lr = {self.lr}: must be a finite number")
        parse_scales(self.lr_scale, path)


def parse_scales(entries: Iterable[str], path: str = "") -> dict[str, float]:
    """('pose:0.1', 'z2h:2') -> {'pose': 0.1, 'z2h': 2.0}. UserError for anything else, or a negative multiple."""
    scales: dict[str, float] = {}
    for entry in entries:
        name, _, text = entry.partition(":")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not name or not 0 <= value < math.inf:
            raise UserError(
                f"{path}lr_scale = {entry!r}: must be GROUP:NUMBER with a number of at least 0, such as pose:0.1"
            )
        scales[name] = value
    return scales


def lr_factor(step: int, steps: int, config: OptimConfig, span: Span = (0.0, 1.0)) -> float:
    """Multiple of `config.lr` used by the update that completes step `step` (counted from 1) of `steps`.

    Warm-up and decay are fitted into `span`; outside it the factor is 0. Warm-up: step/warmup, so 1 at step `warmup`.
    Then constant, or a decay from 1 to `final_lr`, reached at the last step: cosine `f + (1-f)(1+cos(pi u))/2`, linear
    `1 - (1-f) u`, where u is the fraction of the steps after the warm-up that is done. A pure function of the step,
    so that resuming needs no state.
    """
    warmup = config.warmup
    if span != (0.0, 1.0):
        first = round(span[0] * steps)
        length = round(span[1] * steps) - first
        if not 0 < step - first <= length:
            return 0.0
        step, steps, warmup = step - first, length, min(warmup, length - 1)
    if step <= warmup:
        return step / warmup
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if config.schedule == "linear":
        return 1.0 - (1.0 - config.final_lr) * done
    return config.final_lr + (1.0 - config.final_lr) * 0.5 * (1.0 + math.cos(math.pi * done))


@torch.no_grad()
def clip_adaptively(weights: Iterable[nn.Parameter], limit: float) -> None:
    """Scale each gradient down to at most `limit` times the norm of its weight tensor, in place.

    Brock et al. 2021 (NFNets), eq. 3, with the norm of the whole tensor, as in DreamerV3 (2025), in place of that of
    each unit: |g| <= limit * max(|w|, 1e-3).
    """
    for weight in weights:
        if weight.grad is not None:
            bound = limit * weight.norm().clamp(min=AGC_MIN_NORM)
            weight.grad.div_((weight.grad.norm() / bound).clamp(min=1))


class LaProp(torch.optim.Optimizer):
    """Ziyin et al. 2020, algorithm 1: the gradient is normalised first and averaged afterwards.

    n <- b2 n + (1 - b2) g^2;   m <- b1 m + (1 - b1) g / (sqrt(n / (1 - b2^t)) + eps);   w <- w - lr m / (1 - b1^t)

    with decoupled weight decay, w <- (1 - lr decay) w, before the update.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, grad: Tensor, group: Mapping[str, Any]) -> None:
        state, lr, (beta1, beta2) = self.state[weight], group["lr"], group["betas"]
        if not state:
            state["step"] = torch.zeros(())  # on the CPU: reading it does not wait for a GPU
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        count = int(state["step"])
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        normalized = grad / ((square / (1 - beta2**count)).sqrt() + group["eps"])
        average = state["exp_avg"].mul_(beta1).add_(normalized, alpha=1 - beta1)
        weight.mul_(1 - lr * group["weight_decay"]).add_(average, alpha=-lr / (1 - beta1**count))


class PartOptimizer:
    """The optimiser of one part, with its schedule and its clipping. `groups`: see `parameter_groups`."""

    def __init__(self, groups: list[dict[str, Any]], config: OptimConfig, steps: int, fabric: Fabric) -> None:
        self.config, self.steps, self.fabric = config, steps, fabric
        settings: Any = {"lr": config.lr, "betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
        self.optimizer: torch.optim.Optimizer = (
            LaProp(groups, **settings)
            if config.optimizer == "laprop"
            else torch.optim.AdamW(groups, **settings, fused=True)  # one call for all weights
        )
        self._prepared = cast("_FabricOptimizer", fabric.setup_optimizers(self.optimizer))

    def weights(self) -> list[nn.Parameter]:
        """Every weight of the part that is trained, in the optimiser's order."""
        return [w for group in self.optimizer.param_groups for w in group["params"]]

    def clip(self, module: nn.Module) -> Tensor:
        """Clip the gradients of the part; returns their norm () before that. Nothing waits for a GPU."""
        # an infinite bound measures the norm and leaves the gradient alone
        bound = self.config.clip or float("inf")
        norm = self.fabric.clip_gradients(module, self._prepared, max_norm=bound, error_if_nonfinite=False)
        if self.config.agc:
            clip_adaptively(self.weights(), self.config.agc)
        return cast(Tensor, norm)

    def step(self, step: int) -> None:
        """The update that completes step `step` of the training (counted from 1)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_factor(step, self.steps, self.config, group["span"]) * group["scale"]
        self._prepared.step()

    def lr(self, step: int) -> float:
        """The learning rate of step `step` without the groups' own multiples and spans."""
        return self.config.lr * lr_factor(step, self.steps, self.config)


def parameter_groups(
    part: str, groups: Mapping[str, list[nn.Parameter]], config: OptimConfig, spans: Mapping[str, Span]
) -> list[dict[str, Any]]:
    """torch's parameter groups, one per group of the part, each with its `name`, `scale` and `span`.

    UserError when `lr_scale` names a group that the part does not have.
    """
    scales = parse_scales(config.lr_scale)
    for name in scales:
        if name not in groups:
            raise UserError(
                f"optim.{part}.lr_scale names the group '{name}', which '{part}' does not have"
                f"{did_you_mean(name, groups)}"
            )
    return [
        {"params": weights, "name": name, "scale": scales.get(name, 1.0), "span": spans.get(name, (0.0, 1.0))}
        for name, weights in groups.items()
        if weights
    ]


def make_optimizers(
    learner: Learner, optim: Mapping[str, OptimConfig], spans: Mapping[str, Span], steps: int, fabric: Fabric
) -> dict[str, PartOptimizer]:
    """One optimiser for each part that has weights to train.

    UserError when such a part has no settings, or settings name a part that the learner does not have.
    """
    for name in optim:
        if name not in learner.parts:
            raise UserError(f"optim.{name}: this learner has no part '{name}'{did_you_mean(name, learner.parts)}")
    optimizers = {}
    for name in learner.parts:
        groups = learner.part_groups(name)
        if not any(groups.values()):
            continue
        if name not in optim:
            raise UserError(f"part '{name}' is trained but has no optimiser settings: set optim.{name}.lr")
        listed = parameter_groups(name, groups, optim[name], spans)
        optimizers[name] = PartOptimizer(listed, optim[name], steps, fabric)
    if not optimizers:
        raise UserError("this learner has no weight that can be trained")
    return optimizers
