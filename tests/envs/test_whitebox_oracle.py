"""The best return against every sequence of actions, and a policy that earns it."""

import itertools
from pathlib import Path

import pytest
import torch
from oracle import best_action

from isochrone.core.errors import UserError
from isochrone.envs.whitebox import BoxState, WhiteBox, WhiteBoxConfig

TINY = """
..>.
.#A~
..+A
"""
TASKS = ("reach", "avoid", "collect")


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "tiny.txt").write_text(TINY)
    return str(tmp_path / "tiny.txt")


def best_of_all(w: WhiteBox, state: BoxState, length: int) -> torch.Tensor:
    """The largest return over all sequences of `length` actions, by playing every one of them."""
    every = torch.tensor(list(itertools.product(range(5), repeat=length)))  # (S, L)
    count, many = len(state.clock), len(every)
    state = state.map(lambda x: x[:, None].expand(count, many, *x.shape[1:]))
    total, over = torch.zeros(count, many), torch.zeros(count, many, dtype=torch.bool)
    assert w.task is not None
    for t in range(length):
        after = w.transition(state, torch.eye(5)[every[:, t]].expand(count, many, 5))
        total = total + w.reward(state, after) * ~over
        over = over | w.task.terminal(after)
        state = after
    return total.amax(1)


@pytest.mark.parametrize("task", TASKS)
def test_the_best_return_is_the_best_of_all_sequences(task: str, file: str, rng: torch.Generator) -> None:
    config = WhiteBoxConfig(map_file=file, task=task, episode_length=5, hazards=2, items=3)  # type: ignore[arg-type]
    w = WhiteBox(config, 24)
    w.reset(4)
    best = w.best_return()
    assert torch.equal(best, best_of_all(w, w.state(), 5))
    assert len(best.unique()) >= 3
    over = torch.zeros(24, dtype=torch.bool)
    for _ in range(2):  # and from the middle of an episode
        over = over | w.step(w.spec.action.sample((24,), rng)).last
    best = best_of_all(w, w.state(), 3)
    assert torch.equal(w.best_return()[~over], best[~over])
    assert not over.all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["cabin", "medley", "maze"])
@pytest.mark.slow
def test_the_policy_earns_it(task: str, name: str) -> None:
    w = WhiteBox(WhiteBoxConfig(map=name, task=task, episode_length=30, hazards=4), 40)  # type: ignore[arg-type]
    w.reset(3)
    best, total, over = w.best_return(), torch.zeros(40), torch.zeros(40, dtype=torch.bool)
    for t in range(30):
        if t == 7:  # a wiser start changes nothing: what is left to earn is what has not been earned
            assert torch.equal((w.best_return() + total)[~over], best[~over])
        row = w.step(best_action(w))
        total = total + torch.where(over, 0.0, row.reward)
        over = over | row.last
    assert over.all()
    assert torch.equal(total, best)
    assert best.max() > 0


def test_reach_counts_the_steps_at_the_goal() -> None:
    w = WhiteBox(WhiteBoxConfig(map="empty", task="reach", goal="9,9", episode_length=20), 3)
    w.reset(0)
    marks = w.state().task
    cells = BoxState.cat([w.cell(9, 9), w.cell(9, 8), w.cell(0, 0)]).replace(task=marks)
    assert w.best_return(cells).tolist() == [20, 20, 3]
    assert w.best_return(cells.replace(clock=torch.tensor([18, 20, 2]))).tolist() == [2, 0, 1]
    assert best_action(w, cells).argmax(-1).tolist()[:2] == [0, 2]


def test_nothing_more_to_earn_once_it_is_over(file: str) -> None:
    w = WhiteBox(WhiteBoxConfig(map_file=file, task="collect", items=2), 2)
    w.reset(0)
    state = w.state()
    assert state.task is not None
    done = state.replace(task=state.task.replace(left=torch.zeros(2, 2, dtype=torch.bool)))
    assert w.best_return(done).tolist() == [0, 0]
    assert w.spec.action.contains(best_action(w, done))


@pytest.mark.parametrize(
    "options", [{}, {"task": "reach", "actions": "continuous"}, {"task": "collect", "momentum": True}]
)
def test_where_the_best_return_is_unknown(options: dict) -> None:
    assert WhiteBox(WhiteBoxConfig(map="cabin", **options), 1).best_return() is None


def test_a_state_without_marks() -> None:
    w = WhiteBox(WhiteBoxConfig(map="cabin", task="reach"), 1)
    with pytest.raises(UserError, match="has no marks"):
        w.best_return(w.places())
