"""Which transformation each sequence of a batch shows: given, or drawn so that a gradient reaches its distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Choice(NamedTuple):
    """A transformation k for every sequence."""

    k: Tensor  # (B,) int64
    weights: Tensor | None = None  # (B, K) one-hot of k in value, with the gradient of its relaxation; None: k is given

    def through(self, value_of: Callable[[int | Tensor], Tensor]) -> Tensor:
        """``value_of(k)``, (B, ...), with the straight-through gradient in the weights.

        The value is that of the chosen k, and so is the gradient in everything but the weights: the others are
        evaluated forward only. The gradient in the weights is that of Σ_k weights_k value_of(k).
        """
        value = value_of(self.k)
        if self.weights is None or not self.weights.requires_grad or not torch.is_grad_enabled():
            return value
        with torch.no_grad():
            every = torch.stack([value_of(k) for k in range(self.weights.shape[1])], dim=1)  # (B, K, ...)
        zeros = self.weights - self.weights.detach()
        return value + torch.einsum("bk,bk...->b...", zeros, every)


def draw_gumbel(*shape: int, device: torch.device | None = None) -> Tensor:
    """Standard Gumbel noise from torch's default generator."""
    return -torch.empty(shape, device=device).exponential_().log()


def draw_choice(logits: Tensor, temperature: float, gumbel: Tensor) -> Choice:
    """k drawn from softmax(logits), (B, K), with the gradient of the softmax at a temperature.

    The hard straight-through Gumbel-softmax (Jang et al. 2017) of standard Gumbel noise (B, K).
    """
    soft = ((logits + gumbel) / temperature).softmax(1)
    k = soft.argmax(1)
    hard = F.one_hot(k, logits.shape[1]).to(soft.dtype)
    return Choice(k, hard - soft.detach() + soft)
