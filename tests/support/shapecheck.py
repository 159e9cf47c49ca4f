"""The type checker that the jaxtyping import hook lays over the library while tests run: beartype, told three things.

`Self` cannot be resolved on a method decorated by itself, so it passes; an int is as good as a float (PEP 484); and a
protocol is checked by its methods, whether or not it was declared for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, Self, runtime_checkable

from beartype import BeartypeConf, FrozenDict, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any})))


def check(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, refusing arguments and results that its annotations do not describe."""
    # jaxtyping hands over a stand-in of the same module and annotations; their names live in the module
    for seen in list(vars(sys.modules[fn.__module__]).values()):
        if isinstance(seen, type) and getattr(seen, "_is_protocol", False) and seen is not Protocol:
            runtime_checkable(seen)
    return _checked(fn)
