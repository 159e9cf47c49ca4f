"""reach_p finds shortest paths, bellman_p holds them, geometry_rank_p orders by what was seen; each by its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tinymodel import generator, windows
from torch import Tensor, nn

from isochrone.core import registry
from isochrone.core.types import ActionSpec, Batch, Rollout
from isochrone.losses.reach import Rank, Reach, first_hits, place_ids, violation
from isochrone.nets.quasimetric import METRICS, MaxCoordinate

REACH, BELLMAN, RANK = (registry.get("loss", n) for n in ("reach_p", "bellman_p", "geometry_rank_p"))

# A ring with a chord 0 -> 8 that leads one way, and a dead end that hangs on 2.
RING, END = 20, 20
NEXT = [[s, (s + 1) % RING, (s - 1) % RING] for s in range(RING)] + [[END, 2, 2]]
NEXT[0][0] = 8  # at 0 "stay" takes the one-way passage
NEXT[2][0] = END
STATES = len(NEXT)


def shortest() -> Tensor:
    """Fewest actions between all states, by relaxation: (S, S), from row to column."""
    d = torch.full((STATES, STATES), math.inf)
    d.fill_diagonal_(0)
    for _ in range(STATES):
        for s, after in enumerate(NEXT):
            for t in after:
                d[s] = torch.minimum(d[s], 1 + d[t])
    return d


class Table(nn.Module):
    """A model whose z and h are one-hot states, its dynamics the digraph and its pose a table."""

    def __init__(self, table: Tensor, metric: str = "max") -> None:
        super().__init__()
        self.table, self.lagrange_log_multiplier = (
            nn.Parameter(table.clone()),
            nn.Parameter(torch.zeros((), dtype=table.dtype)),
        )
        self.metric = METRICS[metric](table.shape[1])
        self.action = ActionSpec("discrete", 3)
        self.register_buffer("next", torch.tensor(NEXT))

    def predict(self, z: Tensor, h: Tensor, action: Tensor) -> Tensor:
        after = self.next[z.argmax(-1), action.argmax(-1)]  # pyright: ignore[reportIndexIssue]
        return nn.functional.one_hot(after, STATES).to(self.table.dtype)

    def predict_z(self, h: Tensor) -> Tensor:
        return h

    def pose_of(self, z: Tensor) -> Tensor:
        return z @ self.table


def exact() -> Table:
    """p_i(x) = d(i, x): the embedding in which the sup quasimetric is the distance."""
    return Table(shortest().T.contiguous().double())


def transitions(model: Table, count: int, rng: torch.Generator) -> Rollout:
    """`count` windows of two rows: random states and actions."""
    state = torch.randint(STATES, (count,), generator=rng)
    action = torch.randint(3, (count,), generator=rng)
    path = torch.stack([state, torch.tensor(NEXT)[state, action]], 1)  # (B, 2)
    z = nn.functional.one_hot(path, STATES).to(model.table.dtype)
    no = torch.zeros(count, 2, dtype=torch.bool)
    batch = Batch({}, torch.zeros(count, 2, 3), torch.zeros(count, 2), no, no, no)
    return Rollout(batch, {"z_in": z, "h": z, "p": model.pose_of(z)}, rng)


def ranks(x: Tensor) -> Tensor:
    """Ranks with ties at their mean."""
    below = (x[:, None] > x[None]).sum(1)
    return below + ((x[:, None] == x[None]).sum(1) - 1) / 2


def spearman(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([ranks(x.flatten()).double(), ranks(y.flatten()).double()]))[0, 1])


# --- reach_p


@pytest.mark.slow
def test_reach_p_drives_a_free_table_to_the_shortest_distances() -> None:
    model, rng, truth = Table(torch.randn(STATES, 64, generator=generator())), generator(), shortest()
    cfg = Reach(reach=20.0, softness=3.0, pairs=48)
    optimizer = torch.optim.Adam(
        [{"params": [model.table], "lr": 0.5}, {"params": [model.lagrange_log_multiplier], "lr": 0.003}]
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 1000)
    for _ in range(1000):
        optimizer.zero_grad()
        REACH(model, transitions(model, 64, rng), cfg).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = model.metric.pairs(model.table, model.table)
    assert spearman(found, truth) > 0.98  # ties in the truth alone cost about 0.005
    assert (found - truth).abs().mean() < 0.5
    assert found[0, 8] < 1.3, "the passage leads one way"
    assert found[8, 0] > 7, "the passage leads one way"
    step = torch.stack([found[s, t] for s, after in enumerate(NEXT) for t in after])
    assert step.max() < 1.3, "no step costs much more than one action"


@pytest.mark.parametrize("metric", ["max", "euclidean", "residual", "interval"])
def test_reach_p_is_its_formula(metric: str) -> None:
    torch.manual_seed(1)
    model = Table(torch.randn(STATES, 8, dtype=torch.float64) * 3, metric).double()
    with torch.no_grad():
        model.lagrange_log_multiplier.add_(0.3)
    roll = transitions(model, 20, generator(3))
    roll.batch.first[4, 1] = True  # an episode's end: this step is no step
    cfg = Reach(multiplier=11.0, pairs=9, reach=4.0, softness=1.5, slack=0.2, price_rate=0.7)
    ours = REACH(model, Rollout(roll.batch, roll.fields, generator(5)), cfg)
    p, pick = roll.p.flatten(0, 1), torch.randperm(40, generator=generator(5)).tolist()
    pushes = [
        1.5 * math.log1p(math.exp((4.0 - model.metric(p[i], p[j]).item()) / 1.5)) for i in pick[:9] for j in pick[-9:]
    ]
    over = [max(model.metric(roll.p[b, 0], roll.p[b, 1]).item() - 1, 0) ** 2 for b in range(20) if b != 4]
    excess = sum(over) / 19 - 0.04
    price = 11 * math.exp(0.7 * 0.3)
    # the last term is there for its gradient only: held and pressed carry the price's two sides, and cancel in value
    assert ours.item() == pytest.approx(sum(pushes) / 81 + price * excess - price * excess, rel=1e-6)


def test_violation() -> None:
    assert violation(torch.tensor([0.0, 1.0, 1.5, 3.0])).tolist() == [0, 0, 0.25, 4]


# --- bellman_p


def test_the_true_distance_is_at_rest() -> None:
    model = exact()
    loss = BELLMAN(model, transitions(model, 50, generator()))
    assert loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("most", [64.0, 2.5])
def test_bellman_p_is_its_formula_and_teaches_only_the_pair(most: float) -> None:
    torch.manual_seed(2)
    model = Table(torch.randn(STATES, 6, dtype=torch.float64) * 2)
    roll = transitions(model, 8, generator(3))
    cfg = BELLMAN.settings(pairs=7, beta=0.8, most=most)
    ours = BELLMAN(model, Rollout(roll.batch, roll.fields, generator(5)), cfg)
    state, pick = roll.z_in.flatten(0, 1).argmax(-1).tolist(), torch.randperm(16, generator=generator(5)).tolist()
    costs = []
    for i in pick[:7]:
        for j in pick[-7:]:
            a, g = state[i], state[j]
            if a == g:
                continue
            onward = min(model.metric(model.table[b], model.table[g]).item() for b in NEXT[a])
            error = (model.metric(model.table[a], model.table[g]) - min(1 + onward, most)).abs()
            costs.append(error**2 / 1.6 if error < 0.8 else error - 0.4)
    expected = torch.stack(costs).mean()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, model.table)[0], torch.autograd.grad(expected, model.table)[0])


def test_bellman_p_ignores_pairs_of_one_place() -> None:
    """Equal z far from the origin: a distance that rounds would let a state teach itself "one action at least"."""
    model = Table(torch.randn(STATES, 6, generator=generator()) * 2)
    roll = transitions(model, 200, generator(3))
    away = Rollout(roll.batch, {**roll.fields, "z_in": roll.z_in + 7.3}, generator(5))
    near = Rollout(roll.batch, roll.fields, generator(5))
    torch.testing.assert_close(BELLMAN(model, away), BELLMAN(model, near))


# --- what was seen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(2, 9), st.integers(1, 4))
def test_first_hits_against_looking(seed: int, b: int, t: int, places: int) -> None:
    rng = generator(seed)
    ids = torch.randint(places, (b, t), generator=rng)
    joint = torch.rand(b, t - 1, generator=rng) < 0.7
    goals = torch.arange(places)
    found = first_hits(ids, joint, goals)
    for g in range(places):
        for i in range(b):
            for start in range(t):
                row, wait = start, 0.0
                while row < t and ids[i, row] != g:
                    wait = wait + 1 if row < t - 1 and joint[i, row] else math.inf
                    row = row + 1 if math.isfinite(wait) else t
                assert found[g, i, start] == (wait if row < t else math.inf)


def test_equal_frames_are_one_place_and_others_are_not() -> None:
    images = windows(1)[0].obs["image"]
    ids, flat = place_ids(images).flatten(), images.flatten(0, 1).flatten(1)
    same = (flat[:, None] == flat[None]).all(-1)
    assert torch.equal(ids[:, None] == ids[None], same)


def framed(path: Tensor, first: Tensor | None = None) -> Batch:
    """Windows (B, T) of states, each state its own tiny picture."""
    image = path[:, :, None, None, None].to(torch.uint8).expand(-1, -1, 1, 4, 4).contiguous()
    no = torch.zeros(path.shape, dtype=torch.bool)
    first = no if first is None else first
    return Batch({"image": image}, torch.zeros(*path.shape, 3), torch.zeros(path.shape), first, no, no)


def walks(count: int, length: int, rng: torch.Generator) -> Tensor:
    state, rows = torch.randint(STATES, (count,), generator=rng), []
    for _ in range(length):
        rows.append(state)
        state = torch.tensor(NEXT)[state, torch.randint(3, (count,), generator=rng)]
    return torch.stack(rows, 1)


def ranked(model: Any, path: Tensor, cfg: Rank, first: Tensor | None = None) -> Tensor:
    return RANK(model, Rollout(framed(path, first), {"p": model.table[path]}, generator(6)), cfg)


def test_geometry_rank_p_is_its_formula() -> None:
    """Against first hits found by looking, over every window, best over all visits of a place."""
    torch.manual_seed(3)
    model, path = Table(torch.randn(STATES, 6, dtype=torch.float64)), walks(4, 9, generator(1))
    first = torch.zeros(4, 9, dtype=torch.bool)
    first[1, 5] = True
    cfg = Rank(goals=5, triplets=200, margin=0.7)
    ours = ranked(model, path, cfg, first)
    best: dict[tuple[int, int], float] = {}
    for b in range(4):
        for t in range(9):
            for u in range(t, 9):
                if first[b, t + 1 : u + 1].any():
                    break
                key = int(path[b, t]), int(path[b, u])
                best[key] = min(best.get(key, math.inf), u - t)
    rng = generator(6)
    goal = torch.randint(36, (5,), generator=rng)
    flat, d, costs = path.flatten(), model.metric, []
    leads = [[i for i in range(36) if (int(flat[i]), int(flat[aim])) in best] for aim in goal]
    g, u = torch.randint(5, (200,), generator=rng), torch.rand(2, 200, generator=rng)
    for m in range(200):
        aim, some = int(flat[goal[g[m]]]), leads[g[m]]
        a, b = (int(flat[some[int(u[i, m] * len(some))]]) for i in range(2))
        wait_a, wait_b = best[a, aim], best[b, aim]
        if wait_a == wait_b:
            continue
        near, far = (a, b) if wait_a < wait_b else (b, a)
        costs.append(torch.relu(0.7 + d(model.table[near], model.table[aim]) - d(model.table[far], model.table[aim])))
    assert len(costs) > 10
    torch.testing.assert_close(ours, torch.stack(costs).mean())


def test_it_does_not_reward_a_clock() -> None:
    """A walk that idles and comes back: 'later is nearer' costs, the true distance does not."""
    path = torch.tensor([[3, 4, 5, 4, 3, 3, 4, 5, 4], [9, 8, 7, 8, 9, 9, 8, 7, 7]])
    cfg = Rank(margin=0.5)
    truth = exact()
    assert ranked(truth, path, cfg) == 0
    clock = -torch.arange(9.0)[None].expand(2, -1)[..., None]  # p falls as the window grows older
    model = Table(torch.zeros(STATES, 1))
    roll = Rollout(framed(path), {"p": clock}, generator(6))
    assert MaxCoordinate(1)(clock[0, 0], clock[0, 8]) == 0
    assert RANK(model, roll, cfg) > 0.3


def test_nothing_known_costs_nothing() -> None:
    path = torch.tensor([[0, 1], [2, 3], [4, 5]])
    first = torch.ones(3, 2, dtype=torch.bool)
    model = Table(torch.randn(STATES, 3))
    loss = ranked(model, path, Rank(), first)
    assert loss == 0
    assert torch.autograd.grad(loss, model.table)[0].isfinite().all()
