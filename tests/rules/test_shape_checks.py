"""Shapes and types in signatures are checked while the tests run; this tests that the checker is on."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from isochrone.core.types import ActionSpec, Plan


def test_a_wrong_rank_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        Plan(torch.zeros(2, 4), torch.zeros(2, 3))


def test_letters_must_agree_between_fields() -> None:
    with pytest.raises(TypeCheckError):
        Plan(torch.zeros(2, 5, 3), torch.zeros(4))


def test_a_wrong_dtype_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        ActionSpec("continuous", 2).project(torch.zeros(3, 2, dtype=torch.long))


def test_a_wrong_kind_of_argument_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        ActionSpec("continuous", 2).sample((3,), rng=0)  # pyright: ignore[reportArgumentType]
