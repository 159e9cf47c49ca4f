"""The best return against every sequence of actions, and a policy that earns it."""

import itertools
from pathlib import Path

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.envs.whitebox import BoxState, WhiteBoxConfig, WhiteBoxWorld
from isochrone.envs.whitebox.oracle import oracle_action, oracle_return

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


def best_of_all(w: WhiteBoxWorld, state: BoxState, length: int) -> torch.Tensor:
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
    w = WhiteBoxWorld(config, 24)
    w.reset(4)
    best = oracle_return(w)
    assert torch.equal(best, best_of_all(w, w.state(), 5)) and len(best.unique()) >= 3
    over = torch.zeros(24, dtype=torch.bool)
    for _ in range(2):  # and from the middle of an episode
        over = over | w.step(w.spec.action.sample((24,), rng)).last
    found = best_of_all(w, w.state(), 3)
    assert torch.equal(oracle_return(w)[~over], found[~over]) and not over.all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["cabin", "medley", "maze"])
def test_the_policy_earns_it(task: str, name: str) -> None:
    w = WhiteBoxWorld(WhiteBoxConfig(map=name, task=task, episode_length=30, hazards=4), 40)  # type: ignore[arg-type]
    w.reset(3)
    best, total, over = oracle_return(w), torch.zeros(40), torch.zeros(40, dtype=torch.bool)
    for t in range(30):
        if t == 7:  # a wiser start changes nothing: what is left to earn is what has not been earned
            assert torch.equal((oracle_return(w) + total)[~over], best[~over])
        row = w.step(oracle_action(w))
        total = total + torch.where(over, 0.0, row.reward)
        over = over | row.last
    assert over.all() and torch.equal(total, best) and best.max() > 0


def test_reach_counts_the_steps_at_the_goal() -> None:
    w = WhiteBoxWorld(WhiteBoxConfig(map="empty", task="reach", goal="9,9", episode_length=20), 3)
    w.reset(0)
    marks = w.state().task
    cells = BoxState.cat([w.cell(9, 9), w.cell(9, 8), w.cell(0, 0)]).replace(task=marks)
    assert oracle_return(w, cells).tolist() == [20, 20, 3]
    assert oracle_return(w, cells.replace(clock=torch.tensor([18, 20, 2]))).tolist() == [2, 0, 1]
    assert oracle_action(w, cells).argmax(-1).tolist()[:2] == [0, 2]


def test_nothing_more_to_earn_once_it_is_over(file: str) -> None:
    w = WhiteBoxWorld(WhiteBoxConfig(map_file=file, task="collect", items=2), 2)
    w.reset(0)
    state = w.state()
    assert state.task is not None
    done = state.replace(task=state.task.replace(left=torch.zeros(2, 2, dtype=torch.bool)))
    assert oracle_return(w, done).tolist() == [0, 0]
    assert w.spec.action.contains(oracle_action(w, done))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "choose task=reach"),
        ({"task": "reach", "actions": "continuous"}, "not known with continuous actions: choose actions=discrete"),
        ({"task": "collect", "momentum": True}, "not known with momentum: choose"),
    ],
)
def test_where_the_best_is_not_known(options: dict, message: str) -> None:
    w = WhiteBoxWorld(WhiteBoxConfig(map="cabin", **options), 1)
    for ask in (oracle_return, oracle_action):
        with pytest.raises(UserError, match=message):
            ask(w)


def test_a_state_without_marks() -> None:
    w = WhiteBoxWorld(WhiteBoxConfig(map="cabin", task="reach"), 1)
    with pytest.raises(UserError, match="has no marks"):
        oracle_return(w, w.places())
