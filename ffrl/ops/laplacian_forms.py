"""The cubic part of the potential op: the exact Laplacian in Gram and in Jacobian form, each with its backward.

Plain torch, tile by tile, so that no temporary exceeds TILE_ELEMENTS. Equation numbers are those of docs/derivation.md.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

LaplacianForm = Literal["gram", "jacobian"]

# Elements of one temporary of the cubic part: 16 MB in float32, a bound on memory that has not been tuned for speed.
TILE_ELEMENTS = 1 << 22


def laplacian_form(latent_dim: int, hidden1: int, *, backward: bool) -> LaplacianForm:
    """The cheaper of the two exact forms of the Laplacian, by multiply-add count (docs/derivation.md, cost).

    Per row and hidden unit j, in this plain-torch twin: Gram form H1² forward and H1² backward; Jacobian form H1·D
    forward and 3·H1·D backward (the Jacobian is recomputed, not kept).
    """
    gram = hidden1 * (2 if backward else 1)
    jacobian = latent_dim * (4 if backward else 1)
    return "gram" if gram <= jacobian else "jacobian"


class Tiles(NamedTuple):
    """Row and unit extents of one temporary (rows, units, width) that holds at most TILE_ELEMENTS."""

    rows: int
    units: int


def tile_extents(num_rows: int, num_units: int, width: int) -> Tiles:
    budget = max(1, TILE_ELEMENTS // max(1, width))
    units = min(num_units, budget)
    return Tiles(rows=max(1, min(num_rows, budget // max(1, units))), units=max(1, units))


def laplacian_gram(d1: Tensor, c: Tensor, weight2: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """S (N, H2) and e (N, H1) of equations (9) and (10), tile by tile."""
    num_rows, hidden1 = d1.shape
    hidden2 = weight2.shape[0]
    weight2 = weight2.contiguous()  # so that x is, whatever the memory of the parameter
    s_rows, e_rows = d1.new_empty(num_rows, hidden2), torch.zeros_like(d1)
    tiles = tile_extents(num_rows, hidden2, hidden1)
    for n in range(0, num_rows, tiles.rows):
        rows = slice(n, n + tiles.rows)
        for j in range(0, hidden2, tiles.units):
            units = slice(j, j + tiles.units)
            x = d1[rows, None, :] * weight2[units]  # (rows, units, H1)      (9)
            y = (x.view(-1, hidden1) @ gram).view_as(x)  # (rows, units, H1)      (10)
            s_rows[rows, units] = torch.einsum("nji,nji->nj", x, y)
            e_rows[rows] += torch.einsum("nj,nji->ni", c[rows, units], y.mul_(weight2[units]))
    return s_rows, e_rows


def laplacian_gram_vjp(
    v_ell_c: Tensor, d1: Tensor, weight2: Tensor, gram: Tensor, v_gram: Tensor, v_weight2: Tensor
) -> None:
    """Equation (16): adds to v_gram (H1, H1) and v_weight2 (H2, H1); ``v_ell_c`` is λ c, (N, H2).

    The caller finishes (16) with v_weight1 += 2 v_gram W1, because v_gram has a second part, of (14).
    """
    num_rows, hidden1 = d1.shape
    hidden2 = weight2.shape[0]
    # The temporary λ c_j d1 has rows*units*H1 elements and T_j has units*H1*H1: bound both.
    units_per_tile = max(1, min(hidden2, TILE_ELEMENTS // max(1, hidden1 * hidden1)))
    rows_per_tile = max(1, TILE_ELEMENTS // max(1, units_per_tile * hidden1))
    for j in range(0, hidden2, units_per_tile):
        units = slice(j, j + units_per_tile)
        width = weight2[units].shape[0]
        t_block = d1.new_zeros(hidden1, width * hidden1)
        for n in range(0, num_rows, rows_per_tile):
            rows = slice(n, n + rows_per_tile)
            scaled = (v_ell_c[rows, units, None] * d1[rows, None, :]).view(-1, width * hidden1)
            t_block.addmm_(d1[rows].T, scaled)
        t = t_block.view(hidden1, width, hidden1)  # T_j[i, l] = t[i, j, l]
        v_gram += torch.einsum("ijl,ji,jl->il", t, weight2[units], weight2[units])
        t.mul_(gram[:, None, :])
        v_weight2[units] += 2 * torch.einsum("ijl,jl->ji", t, weight2[units])


def laplacian_jacobian(d1: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    """S (N, H2) as squared row norms of the Jacobian J = W2 diag(d1) W1 of a2 in z, tile by tile."""
    s_rows = d1.new_empty(d1.shape[0], weight2.shape[0])
    for rows in jacobian_tiles(d1, weight1, weight2):
        _, jacobian = jacobian_tile(d1[rows], weight1, weight2)
        s_rows[rows] = jacobian.square().sum(-1).T
    return s_rows


def jacobian_tiles(d1: Tensor, weight1: Tensor, weight2: Tensor) -> list[slice]:
    """Row slices for which neither temporary of ``jacobian_tile`` exceeds TILE_ELEMENTS (or is that of one row)."""
    rows = tile_extents(d1.shape[0], 1, max(weight2.shape) * weight1.shape[1]).rows
    return [slice(n, n + rows) for n in range(0, d1.shape[0], rows)]


def jacobian_tile(d1: Tensor, weight1: Tensor, weight2: Tensor) -> tuple[Tensor, Tensor]:
    """M = diag(d1) W1 as (H1, n, D) and J = W2 M as (H2, n, D) of n rows; units first, so that J is one product."""
    m_rows = d1.T[:, :, None] * weight1[:, None, :]  # (H1, n, D)
    return m_rows, (weight2 @ m_rows.flatten(1)).view(weight2.shape[0], *m_rows.shape[1:])


def laplacian_jacobian_vjp(
    v_ell_c: Tensor, d1: Tensor, weight1: Tensor, weight2: Tensor, v_weight1: Tensor, v_weight2: Tensor
) -> Tensor:
    """Jacobian form of (16): adds to v_weight1 and v_weight2, returns the part of v_d1 (N, H1)."""
    v_d1 = torch.empty_like(d1)
    for rows in jacobian_tiles(d1, weight1, weight2):
        m_rows, jacobian = jacobian_tile(d1[rows], weight1, weight2)
        v_jacobian = jacobian.mul_(2 * v_ell_c[rows].T[:, :, None]).flatten(1)  # (H2, n·D)
        v_m_rows = (weight2.T @ v_jacobian).view_as(m_rows)  # (H1, n, D)
        v_d1[rows] = (v_m_rows * weight1[:, None, :]).sum(-1).T
        v_weight1 += torch.einsum("ind,ni->id", v_m_rows, d1[rows])
        v_weight2 += v_jacobian @ m_rows.flatten(1).T
    return v_d1
