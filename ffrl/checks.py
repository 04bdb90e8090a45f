"""Checks of configuration values; each raises ArgumentError naming the field. Imports neither torch nor numpy."""

from __future__ import annotations

import math
import types
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ffrl.errors import ArgumentError


def require(condition: bool, name: str, given: object, allowed: str) -> None:
    """Raise ArgumentError naming the field unless the condition holds."""
    if not condition:
        raise ArgumentError(name, repr(given), allowed)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field's annotation; an int may stand for a float, a bool for neither."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is types.UnionType:
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        hints = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is Ellipsis else arguments
        return isinstance(value, tuple) and len(value) == len(hints) and all(map(_fits, value, hints))
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


def check_types(config: Any, prefix: str = "") -> None:
    """Raise ArgumentError for the first field of a dataclass whose value is not of its annotated type."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal:
            allowed = f"one of {get_args(hint)}"
        else:
            allowed = f"a value of type {hint.__name__ if isinstance(hint, type) else hint}"
        require(_fits(value, hint), f"{prefix}{name}", value, allowed)


def require_integer(name: str, given: object, lowest: int) -> None:
    require(
        isinstance(given, int) and not isinstance(given, bool) and given >= lowest,
        name,
        given,
        f"an integer >= {lowest}",
    )


def require_number(name: str, given: object, lowest: float, *, above: bool = False) -> None:
    ok = isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
    ok = ok and (given > lowest if above else given >= lowest)  # type: ignore[operator]
    require(ok, name, given, f"a finite number {'>' if above else '>='} {lowest}")
