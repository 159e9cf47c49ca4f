"""A nest of dicts <-> named tensors + plain JSON, so that a state can be stored without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

Tree = Mapping[str, Any]


def pack(tree: Tree, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """({'a/b': tensor}, {'a/c': plain}) of a nest of dicts with text keys; leaves are tensors or JSON values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or "/" in key or not key:
            raise TypeError(f"state key {prefix}{key!r}: must be text without '/'")
        here = prefix + key
        if isinstance(value, Tensor):
            tensors[here] = value
        elif isinstance(value, Mapping) and value:
            below = pack(value, f"{here}/")
            tensors |= below[0]
            plain |= below[1]
        else:
            try:
                if json.loads(json.dumps(value)) != value:
                    raise TypeError("changes on the way through JSON")
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"state '{here}' = {value!r}: must be a tensor, a dict or a JSON value: {error}"
                ) from None
            plain[here] = value
    return tensors, plain


def unpack(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The nest of dicts whose parts `pack` returned."""
    tree: dict[str, Any] = {}
    for path, value in [*tensors.items(), *plain.items()]:
        *above, leaf = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[leaf] = value
    return tree
