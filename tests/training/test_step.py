"""One step: the update AdamW should make, clipping, groups, bf16, and the guard."""

from typing import Any

import pytest
import torch
import toy

from isochrone.core.errors import UserError
from isochrone.training.config import TrainConfig
from isochrone.training.device import generator, launch
from isochrone.training.monitor import SETTLE, Diverged, Guard
from isochrone.training.optim import OptimConfig, parameter_groups
from isochrone.training.step import Stepper


def stepper(objective=None, precision="32-true", **settings):
    config = TrainConfig(steps=100, accelerator="cpu", precision=precision)
    return Stepper(objective or toy.ToyObjective(), config, {"model": OptimConfig(**settings)}, launch(config))


def batch(seed=0):
    return toy.sample(generator(seed, "sample"))


def test_a_step_is_adamw_with_schedule_and_clip():
    ours = stepper(lr=1e-2, warmup=4, schedule="linear", clip=0.05, weight_decay=0.1, lr_scale=("dyn:0.5",))
    theirs = toy.ToyObjective()
    model: Any = theirs.model
    enc, dyn = [*model.enc.parameters()], [*model.dyn.parameters()]
    plain = torch.optim.AdamW([{"params": enc}, {"params": dyn}], weight_decay=0.1)
    for n in range(1, 8):
        told = ours(batch(n), generator(n, "loss"))
        plain.zero_grad()
        theirs(batch(n), generator(n, "loss"))[0].backward()
        norm = torch.nn.utils.clip_grad_norm_(enc + dyn, 0.05)
        rate = 1e-2 * (n / 4 if n <= 4 else 1 - (n - 4) / 96)
        plain.param_groups[0]["lr"], plain.param_groups[1]["lr"] = rate, rate / 2
        plain.step()
        model.after_step()
        assert torch.isclose(told["grad_norm"], norm)
        assert norm > 0.05
        assert ours.rates() == {"lr": pytest.approx(rate)}
    mine: Any = ours.learner.model
    for name, value in model.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value, msg=name)
    assert mine.seen == 7
    assert ours.count == 7


def test_clip_bounds_the_gradient_and_zero_leaves_it():
    for clip in (0.01, 0.0):
        made = stepper(clip=clip)
        told = made(batch(), generator(0, "loss"))
        norm = (
            torch.stack([p.grad.square().sum() for p in made.learner.parameters() if p.grad is not None]).sum().sqrt()
        )
        assert told["grad_norm"] > 0.01
        torch.testing.assert_close(norm, torch.tensor(0.01) if clip else told["grad_norm"], rtol=1e-3, atol=1e-6)


def test_parameter_groups_have_scale_and_span():
    groups = toy.ToyModel().groups()
    made = parameter_groups("model", groups, OptimConfig(lr_scale=("z:0.1",)), {"dyn": (0.5, 1.0)})
    assert [(g["name"], len(g["params"]), g["scale"], g["span"]) for g in made] == [
        ("z", 2, 0.1, (0.0, 1.0)),
        ("dyn", 2, 1.0, (0.5, 1.0)),
    ]
    with pytest.raises(UserError, match="optim.model.lr_scale names the group 'dny'.*did you mean 'dyn'"):
        parameter_groups("model", groups, OptimConfig(lr_scale=("dny:2",)), {})


def test_metrics_stay_tensors_without_a_graph():
    told = stepper()(batch(), generator(0, "loss"))
    assert set(told) == {"loss", "loss/predict", "loss/size", "grad_norm"}
    assert all(v.shape == () and not v.requires_grad for v in told.values())


def test_bf16_runs_in_bf16_and_stays_near_float32():
    seen = []
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        total = toy.ToyObjective()
        total.model.enc.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
        made = stepper(total, precision=precision, lr=1e-2)
        found[precision] = [float(made(batch(n), generator(n, "loss"))["loss"]) for n in range(20)]
        assert total.model.enc.weight.dtype == torch.float32
    assert seen[0] == torch.float32
    assert seen[-1] == torch.bfloat16
    assert found["bf16-mixed"] == pytest.approx(found["32-true"], rel=0.05)
    assert found["bf16-mixed"] != found["32-true"]


@pytest.mark.parametrize(("factor", "word"), [(float("nan"), "not a number"), (float("inf"), "infinite")])
def test_a_bad_loss_is_named_and_the_weights_stay(factor, word):
    made = stepper(toy.ToyObjective(poison={3: factor}))
    for n in range(2):
        made(batch(n), generator(n, "loss"))
    before = {k: v.clone() for k, v in made.learner.state_dict().items()}
    with pytest.raises(Diverged, match=f"loss 'size' is {word}") as caught:
        made(batch(2), generator(2, "loss"))
    assert caught.value.step == 3
    assert torch.equal(caught.value.batch.obs["state"], batch(2).obs["state"])
    assert all(torch.equal(v, before[k]) for k, v in made.learner.state_dict().items())


def judge(guard, step, loss, norm=1.0, **metrics):
    told = {name: torch.tensor(value) for name, value in metrics.items()}
    guard.watch(step, batch(), torch.tensor(loss), torch.tensor(norm), told)


def test_exploding_is_against_the_running_median():
    guard = Guard(10.0)
    judge(guard, 1, 1e6)  # the first losses may be anything
    for n in range(SETTLE):
        judge(guard, n + 2, 2.0)
    judge(guard, 50, 19.0)
    with pytest.raises(Diverged, match=r"loss is 21, 1\d times its running median 2 \(largest: 'b' = -20\)"):
        judge(guard, 51, 21.0, a=1.0, b=-20.0)


def test_a_loss_near_zero_does_not_explode():
    guard = Guard(100.0)
    for n in range(SETTLE):
        judge(guard, n, 1e-9)
    judge(guard, 99, 1e-3)


def test_a_gradient_that_is_not_finite_is_told():
    with pytest.raises(Diverged, match="gradient is not a number"):
        judge(Guard(10.0), 1, 1.0, norm=float("nan"))
    with pytest.raises(Diverged, match="though each is finite"):
        judge(Guard(10.0), 1, float("nan"), a=1.0)


def test_the_guard_remembers_across_a_resume():
    guard, other = Guard(10.0), Guard(10.0)
    for n in range(SETTLE):
        judge(guard, n, float(n))
    other.restore(guard.state())
    assert list(other.recent) == list(guard.recent)
