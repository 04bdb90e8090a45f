"""Calling a ``torch.autograd.Function`` in eager mode for little: a small one costs less than its call."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from ffrl.errors import DerivativeOrderError
from ffrl.ops.analytic import FORWARD_MODE_MESSAGE, SECOND_DERIVATIVE_MESSAGE


def apply_function(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply`` for positional arguments; its forward alone where nobody can differentiate or batch it.

    ``apply`` of a Function with a setup_context binds its arguments by ``inspect.signature`` at every call, a third of
    the time of a small one, for the sake of default values; outside of torch.func nothing else needs that layer.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():  # pyright: ignore
        return function.apply(*arguments)
    if torch.is_grad_enabled() or forward_ad._current_level >= 0:  # a dual number must reach the jvp, which raises
        return super(torch.autograd.Function, function).apply(*arguments)  # pyright: ignore
    return function.forward(*arguments)


class GradientsOnly(torch.autograd.Function):
    """A Function of gradients, which have no derivative of their own; it lacks ``forward`` and ``vmap``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise DerivativeOrderError(SECOND_DERIVATIVE_MESSAGE)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise DerivativeOrderError(FORWARD_MODE_MESSAGE)
