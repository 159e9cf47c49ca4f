"""The gradient-control tools do what their table says, measured with autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from isochrone.core.gradient import EMA, frozen, no_parameter_grad, stop_gradient, without_grad


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in module.parameters()]


def test_stop_keeps_the_value_and_ends_the_gradient() -> None:
    x = torch.ones(3, requires_grad=True)
    y = stop_gradient(x * 2, "a test")
    assert y.eq(2).all()
    assert not y.requires_grad
    (x.sum() + stop_gradient(x, "a test").sum()).backward()
    assert x.grad is not None
    assert x.grad.eq(1).all()


def test_without_grad_calls_a_function_without_a_graph() -> None:
    x, enabled = torch.ones(2, requires_grad=True), []

    def work() -> Tensor:
        enabled.append(torch.is_grad_enabled())
        return 3 * x

    y = without_grad(work, "a test")
    assert y.tolist() == [3, 3]
    assert not y.requires_grad
    assert enabled == [False]
    assert torch.is_grad_enabled()


def test_a_reason_is_required() -> None:
    with pytest.raises(ValueError, match="say why"):
        stop_gradient(torch.ones(1), "")
    with pytest.raises(ValueError, match="say why"):
        without_grad(lambda: torch.ones(1), "")


def test_stop_gradient_refuses_what_is_not_a_tensor_or_struct() -> None:
    with pytest.raises(TypeError, match="without_grad"):
        stop_gradient(lambda: torch.ones(1), "a test")


def test_frozen_passes_the_gradient_to_the_input_only(rng: torch.Generator) -> None:
    net, x = network(), torch.randn(5, 3, generator=rng).requires_grad_()
    frozen(net)(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert gradients(net) == [None] * 6
    assert all(p.requires_grad for p in net.parameters())


def test_frozen_equals_the_toggle(rng: torch.Generator) -> None:
    """Value and input gradient are those of the same network with requires_grad switched off by hand."""
    net, data = network(), torch.randn(5, 3, generator=rng)
    toggled = copy.deepcopy(net).requires_grad_(False)
    x, y = data.clone().requires_grad_(), data.clone().requires_grad_()
    ours, theirs = frozen(net)(x), toggled(y)
    assert torch.equal(ours, theirs)
    ours.square().sum().backward(), theirs.square().sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert torch.equal(x.grad, y.grad)


def test_frozen_reads_weights_when_called(rng: torch.Generator) -> None:
    net, x = network(), torch.randn(2, 3, generator=rng)
    call = frozen(net)
    before = call(x)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1)
    assert torch.equal(call(x), net(x))
    assert not torch.equal(call(x), before)


def test_frozen_beside_the_live_module_gives_only_the_live_gradient(rng: torch.Generator) -> None:
    net, x = network(), torch.randn(4, 3, generator=rng)
    (net(x).sum() + 100 * frozen(net)(x).sum()).backward()
    alone = network()
    alone(x).sum().backward()
    for mixed, pure in zip(gradients(net), gradients(alone), strict=True):
        assert mixed is not None
        assert pure is not None
        assert torch.equal(mixed, pure)


def test_frozen_calls_any_method(rng: torch.Generator) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def step(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return self.net(x) * scale

    model, x = Model(), torch.randn(2, 3, generator=rng).requires_grad_()
    y = frozen(model, "step")(x, scale=2.0)
    assert torch.equal(y, model.step(x, 2.0))
    y.sum().backward()
    assert x.grad is not None
    assert gradients(model) == [None] * 6
    with pytest.raises(AttributeError, match="jump"):
        frozen(model, "jump")


def test_frozen_keeps_buffers_and_arguments() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.full((1,), 2.0))
            self.register_buffer("offset", torch.full((1,), 5.0))

        def forward(self, x: Tensor, times: float = 1.0) -> Tensor:
            return x * self.gain * times + self.get_buffer("offset")

    assert frozen(Shift())(torch.ones(1), times=3.0).item() == 11.0


def test_no_parameter_grad_reaches_inputs_only(rng: torch.Generator) -> None:
    net, x = network(), torch.randn(2, 3, generator=rng).requires_grad_()
    with no_parameter_grad(net):
        net(x).sum().backward()
    assert gradients(net) == [None] * 6
    assert x.grad is not None
    assert all(p.requires_grad for p in net.parameters())


def test_no_parameter_grad_restores_mixed_flags_also_on_error() -> None:
    net = network()
    net[0].requires_grad_(False)
    flags = [p.requires_grad for p in net.parameters()]
    assert len(set(flags)) == 2
    with pytest.raises(RuntimeError, match="inside"), no_parameter_grad(net):
        assert not any(p.requires_grad for p in net.parameters())
        raise RuntimeError("inside")
    assert [p.requires_grad for p in net.parameters()] == flags


def test_no_parameter_grad_nests() -> None:
    net = network()
    with no_parameter_grad(net):
        with no_parameter_grad(net):
            pass
        assert not any(p.requires_grad for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_ema_starts_equal_and_moves_by_tau() -> None:
    fast = network()
    ema = EMA(fast, 0.25)
    old = [p.clone() for p in ema.module.parameters()]
    with torch.no_grad():
        for p in fast.parameters():
            p.add_(1.0)
    ema.update(fast)
    for now, before in zip(ema.module.parameters(), old, strict=True):
        torch.testing.assert_close(now, before + 0.25)


def test_ema_gets_no_gradient_but_passes_it_to_its_input(rng: torch.Generator) -> None:
    fast = network()
    ema, x = EMA(fast, 0.1), torch.randn(2, 3, generator=rng).requires_grad_()
    ema(x).sum().backward()
    assert gradients(ema) == [None] * 6
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in ema.parameters())
    assert gradients(fast) == [None] * 6
    assert all(p.requires_grad for p in fast.parameters())


def test_ema_copies_buffers_and_is_saved() -> None:
    fast = nn.BatchNorm1d(2)
    ema = EMA(fast, 0.5)
    fast(torch.tensor([[1.0, 5.0], [3.0, 9.0]]))
    ema.update(fast)
    assert isinstance(ema.module, nn.BatchNorm1d)
    assert ema.module.running_mean is not None
    assert torch.equal(ema.module.running_mean, fast.running_mean)
    assert "module.running_mean" in ema.state_dict()


def test_ema_with_tau_one_is_the_module(rng: torch.Generator) -> None:
    ema, other, x = EMA(network(), 1.0), network(1), torch.randn(2, 3, generator=rng)
    ema.update(other)
    assert torch.equal(ema(x), other(x))


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.5, float("nan")])
def test_ema_refuses_a_tau_outside_its_range(tau: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        EMA(network(), tau)
