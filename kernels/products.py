"""Products of a block of rows with a weight, tile by tile, as the kernels of a whole call and of a rollout share them.

Rows are given by a block of pointers (ROWS,), each to the first number of its row, so that they may stand anywhere.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ffrl.kernels.activation import unit1, unit2


@triton.jit
def product(
    p_rows, m_row, p_weight, stride_term, stride_column, o_c, m_c, num_terms,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(ROWS, COLUMNS): rows times the columns ``o_c`` of a weight; a masked row counts as zeros."""
    b_out = tl.zeros((ROWS, COLUMNS), tl.float32)
    for term in range(0, num_terms, DEPTH):
        o_l = term + tl.arange(0, DEPTH)
        m_l = o_l < num_terms
        b_rows = tl.load(p_rows[:, None] + o_l, mask=m_row[:, None] & m_l, other=0.0)
        b_weight = tl.load(
            p_weight + o_l[:, None] * stride_term + o_c[None, :] * stride_column, mask=m_l[:, None] & m_c, other=0.0
        )
        b_out = tl.dot(b_rows, b_weight, b_out, input_precision=PRECISION)
    return b_out


@triton.jit
def weight2_products(
    p_rows, p_tau, p_dtau_dt, p_d2tau_dt2, b_feature, m_row, p_weight2, o_j, m_j, H1,
    LEFT: tl.constexpr, ADD_TAU: tl.constexpr, TIME: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W2 times the rows (plus τ), times ∂τ/∂t and times ∂²τ/∂t², of the units ``o_j``: W2 is read once."""
    b_left = tl.zeros((ROWS, COLUMNS), tl.float32)
    b_omega = tl.zeros((ROWS, COLUMNS), tl.float32)
    b_omega2 = tl.zeros((ROWS, COLUMNS), tl.float32)
    for h in range(0, H1, DEPTH):
        o_h = h + tl.arange(0, DEPTH)
        m_h = o_h < H1
        m_rh = m_row[:, None] & m_h
        o_feature = b_feature[:, None] * H1 + o_h
        b_weight = tl.load(p_weight2 + o_j[None, :] * H1 + o_h[:, None], mask=m_h[:, None] & m_j, other=0.0)
        if LEFT:
            b_rows = tl.load(p_rows[:, None] + o_h, mask=m_rh, other=0.0)
            if ADD_TAU:
                b_rows += tl.load(p_tau + o_feature, mask=m_rh, other=0.0)
            b_left = tl.dot(b_rows, b_weight, b_left, input_precision=PRECISION)
        if TIME:
            b_rate = tl.load(p_dtau_dt + o_feature, mask=m_rh, other=0.0)
            b_omega = tl.dot(b_rate, b_weight, b_omega, input_precision=PRECISION)
        if SECOND:
            b_rate2 = tl.load(p_d2tau_dt2 + o_feature, mask=m_rh, other=0.0)
            b_omega2 = tl.dot(b_rate2, b_weight, b_omega2, input_precision=PRECISION)
    return b_left, b_omega, b_omega2


@triton.jit
def q_tile(
    p_h2, p_weight2, p_weight3, o_h, m_h, H1, H2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(5): q = W2ᵀ p of the units ``o_h``, p made from the rows h2."""
    b_q = tl.zeros((ROWS, COLUMNS), tl.float32)
    for j in range(0, H2, DEPTH):
        o_j = j + tl.arange(0, DEPTH)
        m_j = o_j < H2
        b_h2 = tl.load(p_h2[:, None] + o_j, mask=m_j[None, :], other=0.0)
        b_p, _ = unit2(b_h2, tl.load(p_weight3 + o_j, mask=m_j, other=0.0))
        b_weight = tl.load(p_weight2 + o_j[:, None] * H1 + o_h, mask=m_j[:, None] & m_h, other=0.0)
        b_q = tl.dot(b_p, b_weight, b_q, input_precision=PRECISION)
    return b_q


@triton.jit
def v_tile(
    p_h1, p_q, p_weight1, o_d, m_d, D, H1,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(5): v = W1ᵀ r of the latent dimensions ``o_d``, r made from the rows h1 and q."""
    b_v = tl.zeros((ROWS, COLUMNS), tl.float32)
    for h in range(0, H1, DEPTH):
        o_h = h + tl.arange(0, DEPTH)
        m_h = (o_h < H1)[None, :]
        b_h1 = tl.load(p_h1[:, None] + o_h, mask=m_h, other=0.0)
        b_r, _ = unit1(b_h1, tl.load(p_q[:, None] + o_h, mask=m_h, other=0.0))
        b_weight = tl.load(p_weight1 + o_h[:, None] * D + o_d, mask=(o_h < H1)[:, None] & m_d, other=0.0)
        b_v = tl.dot(b_r, b_weight, b_v, input_precision=PRECISION)
    return b_v
