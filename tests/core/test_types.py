"""Structs, action spaces and the time convention, on tensors small enough to read."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.core.errors import UserError
from isochrone.core.types import ActionSpec, Batch, Plan, Rollout, Spec, Step, tree_map


def bits(text: str) -> torch.Tensor:
    """'100 010' -> bool (2, 3)."""
    return torch.tensor([[c == "1" for c in row] for row in text.split()])


def batch(first: str, last: str) -> Batch:
    """A batch whose image and action count: row t of window b holds 10 b + t."""
    rows, length = bits(first).shape
    count = torch.arange(rows)[:, None] * 10 + torch.arange(length)  # (B, T)
    image = count.to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 3, 2, 2)
    none = torch.zeros(rows, length, dtype=torch.bool)
    return Batch({"image": image}, count[..., None].float(), count.float(), bits(first), bits(last), none)


def step(value: float, size: int = 2) -> Step:
    flags = [torch.zeros(size, dtype=torch.bool) for _ in range(3)]
    return Step(
        {"image": torch.full((size, 1, 2, 2), int(value), dtype=torch.uint8)}, torch.full((size,), value), *flags
    )


# --- Struct --------------------------------------------------------------------------------------------------------


def test_map_reaches_every_tensor_and_leaves_the_original() -> None:
    plan = Plan(torch.zeros(2, 3, 4), torch.zeros(2), {"cost": torch.ones(2), "name": "cem", "inner": step(1.0)})
    twice = plan.map(lambda x: x + 1 if x.dtype == torch.float32 else x)
    assert twice.actions.eq(1).all()
    assert twice.trace["cost"].eq(2).all()
    assert twice.trace["name"] == "cem"
    assert twice.trace["inner"].reward.eq(2).all()
    assert twice.trace["inner"].obs["image"].eq(1).all()
    assert plan.actions.eq(0).all()
    assert plan.trace["cost"].eq(1).all()


def test_index_takes_the_same_rows_of_everything() -> None:
    b = batch("1000 1000", "0001 0001")
    assert b[1].action.squeeze(-1).tolist() == [10, 11, 12, 13]
    assert b[:, 1:3].action.squeeze(-1).tolist() == [[1, 2], [11, 12]]
    assert b[torch.tensor([1, 0])].obs["image"][:, 0, 0, 0, 0].tolist() == [10, 0]
    assert b[:, 1:3].shape == (2, 2)


def test_stack_makes_a_dimension_and_cat_extends_one() -> None:
    steps = [step(float(t)) for t in range(3)]
    stacked = Step.stack(steps, dim=1)
    assert stacked.reward.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert stacked.obs["image"].shape == (2, 3, 1, 2, 2)
    joined = Step.cat(steps)
    assert joined.reward.tolist() == [0, 0, 1, 1, 2, 2]
    assert joined.obs["image"].shape == (6, 1, 2, 2)


def test_stack_undoes_index() -> None:
    b = batch("100 010", "000 100")
    again = Batch.stack([b[0], b[1]])
    assert torch.equal(again.action, b.action)
    assert torch.equal(again.obs["image"], b.obs["image"])


def test_replace_copies_and_nothing_can_be_written() -> None:
    one = step(1.0)
    assert one.replace(reward=torch.zeros(2)).reward.eq(0).all()
    assert one.reward.eq(1).all()
    with pytest.raises(FrozenInstanceError):
        one.reward = torch.zeros(2)  # pyright: ignore[reportAttributeAccessIssue]


def test_to_keeps_values_and_types() -> None:
    moved = step(3.0).to("cpu")
    assert moved.obs["image"].dtype == torch.uint8
    assert moved.reward.eq(3).all()


def test_tree_map_walks_dicts() -> None:
    out = tree_map(lambda x: x * 2, {"a": torch.ones(1), "b": {"c": torch.ones(1)}, "n": 5})
    assert out["a"] == 2
    assert out["b"]["c"] == 2
    assert out["n"] == 5


# --- time ----------------------------------------------------------------------------------------------------------


def test_pairs_are_neighbours_and_know_the_border() -> None:
    b = batch("1001 0000", "0010 0000")  # window 0: an episode of 3 rows, then the next begins; window 1: one middle
    now, following, valid = b.pairs()
    assert now.action.squeeze(-1).tolist() == [[0, 1, 2], [10, 11, 12]]
    assert following.action.squeeze(-1).tolist() == [[1, 2, 3], [11, 12, 13]]
    assert valid.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize(("first", "last"), [("1001", "0000"), ("1000", "0010"), ("1001", "0010")])
def test_either_flag_alone_ends_an_episode(first: str, last: str) -> None:
    assert batch(first, last).connected(1).tolist() == [[True, True, False]]


def test_connected_needs_every_row_between() -> None:
    b = batch("100100", "001000")
    assert b.connected(2).tolist() == [[True, False, False, True]]
    assert b.connected(3).tolist() == [[False, False, False]]
    assert batch("100000", "000001").connected(5).tolist() == [[True]]


def test_an_episode_of_one_row_connects_to_nothing() -> None:
    assert batch("0110", "1100").connected(1).tolist() == [[False, False, True]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 6))
def test_connected_equals_the_definition(lengths: list[int], k: int) -> None:
    """Episodes of these lengths, end to end: t and t+k are connected when they belong to the same one."""
    episode = [i for i, n in enumerate(lengths) for _ in range(n)]
    total = len(episode)
    if k >= total:
        return
    first = "".join("1" if t == 0 or episode[t] != episode[t - 1] else "0" for t in range(total))
    last = "".join("1" if t == total - 1 or episode[t] != episode[t + 1] else "0" for t in range(total))
    want = [episode[t] == episode[t + k] for t in range(total - k)]
    assert batch(first, last).connected(k).tolist() == [want]


# --- actions -------------------------------------------------------------------------------------------------------

MOVES = ActionSpec("discrete", 5, ("stay", "north", "south", "west", "east"), noop=0, inverse=(0, 2, 1, 4, 3))
PUSH = ActionSpec("continuous", 2, noop=0)


@pytest.mark.parametrize("space", [MOVES, PUSH])
def test_samples_are_legal_and_follow_the_generator(space: ActionSpec) -> None:
    drawn = [space.sample((50, 3), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert drawn[0].shape == (50, 3, space.size)
    assert drawn[0].dtype == torch.float32
    assert space.contains(drawn[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_samples_cover_the_space(rng: torch.Generator) -> None:
    assert MOVES.sample((1000,), rng).mean(0).sub(0.2).abs().max() < 0.06
    pushes = PUSH.sample((1000,), rng)
    assert pushes.min() < -0.95
    assert pushes.max() > 0.95
    assert pushes.mean().abs() < 0.06


@pytest.mark.parametrize("space", [MOVES, PUSH])
def test_projection_lands_inside_and_moves_nothing_legal(space: ActionSpec, rng: torch.Generator) -> None:
    wild = torch.randn(40, space.size, generator=rng) * 3
    assert space.contains(space.project(wild))
    legal = space.sample((40,), rng)
    assert torch.equal(space.project(legal), legal)
    assert space.project(wild.double()).dtype == torch.float64


def test_projection_is_the_nearest() -> None:
    assert MOVES.project(torch.tensor([0.1, 0.2, 0.9, 0.3, 0.0])).argmax() == 2
    assert PUSH.project(torch.tensor([3.0, -0.5])).tolist() == [1.0, -0.5]


@pytest.mark.parametrize("bad", [[1.0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.0, 0, 0, 0, 0], [float("nan"), 0, 0, 0, 1]])
def test_what_is_not_one_hot_is_not_an_action(bad: list[float]) -> None:
    assert not MOVES.contains(torch.tensor(bad))


@pytest.mark.parametrize("bad", [[1.01, 0.0], [0.0, float("nan")], [float("inf"), 0.0], [0.0], [0.0, 0.0, 0.0]])
def test_what_leaves_the_box_is_not_an_action(bad: list[float]) -> None:
    assert not PUSH.contains(torch.tensor(bad))


def test_idle_does_nothing() -> None:
    assert MOVES.idle((2, 3)).argmax(-1).eq(0).all()
    assert MOVES.contains(MOVES.idle((2, 3)))
    assert PUSH.idle((4,)).eq(0).all()
    assert PUSH.idle((4,)).shape == (4, 2)
    assert ActionSpec("discrete", 3, noop=2).idle((1,)).tolist() == [[0.0, 0.0, 1.0]]
    assert ActionSpec("discrete", 3).idle(()).tolist() == [1.0, 0.0, 0.0]


def test_inverted_undoes_and_undoes_itself(rng: torch.Generator) -> None:
    every = MOVES.one_hot(torch.arange(5))
    assert MOVES.inverted(every).argmax(-1).tolist() == [0, 2, 1, 4, 3]
    drawn = MOVES.sample((6, 7), rng)
    assert torch.equal(MOVES.inverted(MOVES.inverted(drawn)), drawn)
    assert torch.equal(PUSH.inverted(torch.tensor([0.5, -1.0])), torch.tensor([-0.5, 1.0]))


def test_no_inverse_is_said() -> None:
    with pytest.raises(UserError, match=r"no inverse.*ActionSpec\.inverse"):
        ActionSpec("discrete", 3).inverted(torch.eye(3))


@pytest.mark.parametrize("inverse", [(1, 2, 0), (0, 1), (0, 1, 2, 3), (0, 0, 2), (0, 1, 7)])
def test_an_inverse_that_does_not_undo_itself_is_refused(inverse: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="must undo itself"):
        ActionSpec("discrete", 3, inverse=inverse)


def test_a_noop_outside_the_space_is_refused() -> None:
    with pytest.raises(UserError, match="noop 3 is not one of 3"):
        ActionSpec("discrete", 3, noop=3)


# --- Spec and Rollout ----------------------------------------------------------------------------------------------


def test_spec_gives_the_image_or_says_what_there_is() -> None:
    assert Spec({"image": (3, 64, 64)}, PUSH).image == (3, 64, 64)
    with pytest.raises(UserError, match=r"\['state'\] but no 'image'"):
        _ = Spec({"state": (4,)}, PUSH).image


def test_rollout_gives_what_it_holds_and_names_what_it_lacks() -> None:
    roll = Rollout(batch("100", "001"), {"z": torch.ones(1, 3, 2)})
    assert roll.z.shape == (1, 3, 2)
    with pytest.raises(AttributeError, match=r"holds z, not 'p'.*reads"):
        _ = roll.p
    assert not hasattr(roll, "__array__")
