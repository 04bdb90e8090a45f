"""Equations (1) to (8), block by block of rows: every product of a weight with the rows, and what ends a row.

Shapes: N rows, P slots (rows in blocks, padded), M time feature rows, K potentials, D latent, H1 and H2 hidden.
``kept`` is (P, width of a slot): h1 (H1), q (H1), h2 (H2), v (D), u, ∂o/∂t, ∂²o/∂t², ℓ, then S (H2) and e (H1) where
they are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ffrl.kernels.activation import output_activation, slope, tanh, unit1, unit2
from ffrl.kernels.products import product, q_tile, v_tile, weight2_products


@triton.jit
def feature_rows(p_feature_row, b_row, m_row, FEATURES: tl.constexpr):
    """Feature row of each row: the only one there is ("shared"), the row's own ("own"), or by a "table"."""
    if FEATURES == "shared":
        b_feature = b_row * 0
    elif FEATURES == "own":
        b_feature = b_row
    else:
        b_feature = tl.load(p_feature_row + b_row, mask=m_row, other=0)
    return b_feature


@triton.jit
def hidden1_forward(
    p_z, p_weight1, p_bias1, p_slot_row, p_block_k, p_kept, p_d1, D, H1, WIDTH,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(1): h1 and d1 of a block of rows and a tile of units."""
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    b_row = tl.load(p_slot_row + o_slot)
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_bias1 += b_k * H1
    p_kept += o_first * WIDTH
    p_d1 += o_first * H1
    m_row = b_row >= 0
    o_h = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_h = o_h < H1
    b_a1 = product(p_z + b_row * D, m_row, p_weight1, 1, D, o_h, m_h, D, ROWS, COLUMNS, DEPTH, PRECISION)
    b_h1 = tanh(b_a1 + tl.load(p_bias1 + o_h, mask=m_h, other=0.0))
    tl.store(p_kept + o_r[:, None] * WIDTH + o_h, b_h1, mask=m_h[None, :])
    tl.store(p_d1 + o_r[:, None] * H1 + o_h, slope(b_h1), mask=m_h[None, :])


@triton.jit
def hidden2_forward(
    p_tau, p_dtau_dt, p_d2tau_dt2, p_feature_row, p_weight2, p_bias2, p_weight3, p_slot_row, p_block_k, p_kept, p_c,
    p_parts, H1, H2, WIDTH, SLOTS,
    FEATURES: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(2), (3), (6), (7): h2 and c of a tile of units, and its share of o, ∂o/∂t and ∂²o/∂t²: parts (3, tiles, P)."""
    i_block, i_tile, num_tiles = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    b_row = tl.load(p_slot_row + o_slot)
    b_k = tl.load(p_block_k + i_block)
    p_weight2 += b_k * H2 * H1
    p_bias2 += b_k * H2
    p_weight3 += b_k * H2
    p_kept += o_first * WIDTH
    m_row = b_row >= 0
    b_feature = feature_rows(p_feature_row, b_row, m_row, FEATURES)
    o_j = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_j = o_j < H2
    b_a2, b_omega, b_omega2 = weight2_products(
        p_kept + o_r * WIDTH, p_tau, p_dtau_dt, p_d2tau_dt2, b_feature, m_row, p_weight2, o_j, m_j, H1,
        True, True, True, SECOND, ROWS, COLUMNS, DEPTH, PRECISION,
    )  # fmt: skip
    b_h2 = tanh(b_a2 + tl.load(p_bias2 + o_j, mask=m_j, other=0.0))
    b_weight3 = tl.load(p_weight3 + o_j, mask=m_j, other=0.0)  # zero behind the last unit: so are p and c
    b_p, b_c = unit2(b_h2, b_weight3)
    tl.store(p_kept + o_r[:, None] * WIDTH + 2 * H1 + o_j, b_h2, mask=m_j[None, :])
    p_c += i_tile.to(tl.int64) * COLUMNS * SLOTS + o_first
    tl.store(p_c + tl.arange(0, COLUMNS).to(tl.int64) * SLOTS + o_r[:, None], b_c, mask=m_j[None, :])
    o_part = i_tile.to(tl.int64) * SLOTS + o_slot
    tl.store(p_parts + o_part, tl.sum(b_h2 * b_weight3, 1))
    tl.store(p_parts + num_tiles * SLOTS + o_part, tl.sum(b_p * b_omega, 1))
    if SECOND:
        tl.store(p_parts + 2 * num_tiles * SLOTS + o_part, tl.sum(b_c * b_omega * b_omega + b_p * b_omega2, 1))


@triton.jit
def q_forward(
    p_weight2, p_weight3, p_block_k, p_kept, H1, H2, WIDTH,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(5): q = W2ᵀ p."""
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    b_k = tl.load(p_block_k + i_block)
    p_weight2 += b_k * H2 * H1
    p_weight3 += b_k * H2
    p_kept += o_first * WIDTH
    o_h = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_h = o_h < H1
    p_h2 = p_kept + o_r * WIDTH + 2 * H1
    b_q = q_tile(p_h2, p_weight2, p_weight3, o_h, m_h, H1, H2, ROWS, COLUMNS, DEPTH, PRECISION)
    tl.store(p_kept + o_r[:, None] * WIDTH + H1 + o_h, b_q, mask=m_h[None, :])


@triton.jit
def v_forward(
    p_weight1, p_block_k, p_kept, D, H1, H2, WIDTH,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(5): v = W1ᵀ r."""
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_kept += o_first * WIDTH
    o_d = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_d = o_d < D
    p_h1 = p_kept + o_r * WIDTH
    b_v = v_tile(p_h1, p_h1 + H1, p_weight1, o_d, m_d, D, H1, ROWS, COLUMNS, DEPTH, PRECISION)
    tl.store(p_kept + o_r[:, None] * WIDTH + 2 * H1 + H2 + o_d, b_v, mask=m_d[None, :])


@triton.jit
def rows_forward(
    p_bias3, p_gram, p_slot_row, p_block_k, p_kept, p_c, p_parts, p_squares, p_columns, p_u, p_du_dz, p_du_dt,
    p_d2u_dt2, p_lap_u, D, H1, H2, WIDTH, SLOTS, num_parts, num_squares, num_columns,
    TANH: tl.constexpr, SECOND: tl.constexpr, FORM: tl.constexpr, KEEP: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """(3) to (7), (11): the sums that end a row, in the order of their parts, and what the caller gets of it.

    squares (num_squares, H2, P) are parts of S, columns (num_columns, P, H1) parts of e.
    """
    i_block = tl.program_id(0)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    b_row = tl.load(p_slot_row + o_slot)
    b_k = tl.load(p_block_k + i_block)
    p_bias3 += b_k
    p_gram += b_k * H1 * H1
    p_kept += o_first * WIDTH
    m_row = b_row >= 0
    b_o = tl.zeros((ROWS,), tl.float32) + tl.load(p_bias3)
    b_o_dot = tl.zeros((ROWS,), tl.float32)
    b_o_ddot = tl.zeros((ROWS,), tl.float32)
    for i in range(num_parts):
        o_part = tl.cast(i, tl.int64) * SLOTS + o_slot
        b_o += tl.load(p_parts + o_part)
        b_o_dot += tl.load(p_parts + num_parts * SLOTS + o_part)
        if SECOND:
            b_o_ddot += tl.load(p_parts + 2 * num_parts * SLOTS + o_part)
    b_u, b_phi, b_psi = output_activation(b_o, TANH)
    p_slot = p_kept + o_r * WIDTH

    b_squared = tl.zeros((ROWS,), tl.float32)
    for d in range(0, D, DEPTH):
        o_d = d + tl.arange(0, DEPTH)
        m_d = o_d < D
        b_v = tl.load(p_slot[:, None] + 2 * H1 + H2 + o_d, mask=m_d[None, :], other=0.0)
        b_squared += tl.sum(b_v * b_v, 1)
        tl.store(p_du_dz + b_row[:, None] * D + o_d, b_phi[:, None] * b_v, mask=m_row[:, None] & m_d)

    b_ell = tl.zeros((ROWS,), tl.float32)
    if FORM != "none":
        o_squares = 2 * H1 + H2 + D + 4
        for j in range(0, H2, DEPTH):
            o_j = j + tl.arange(0, DEPTH)
            m_j = (o_j < H2)[None, :]
            o_unit = tl.cast(j, tl.int64) * SLOTS + o_first
            o_in = tl.arange(0, DEPTH) * SLOTS + o_r[:, None]
            b_s = tl.zeros((ROWS, DEPTH), tl.float32)
            for i in range(num_squares):
                p_part = p_squares + tl.cast(i, tl.int64) * H2 * SLOTS + o_unit
                b_s += tl.load(p_part + o_in, mask=m_j, other=0.0)
            b_ell += tl.sum(tl.load(p_c + o_unit + o_in, mask=m_j, other=0.0) * b_s, 1)
            if KEEP:
                tl.store(p_slot[:, None] + o_squares + o_j, b_s, mask=m_j)
        for h in range(0, H1, DEPTH):
            o_h = h + tl.arange(0, DEPTH)
            m_h = o_h < H1
            b_h1 = tl.load(p_slot[:, None] + o_h, mask=m_h[None, :], other=0.0)
            b_q = tl.load(p_slot[:, None] + H1 + o_h, mask=m_h[None, :], other=0.0)
            _, b_m = unit1(b_h1, b_q)
            b_diagonal = tl.load(p_gram + o_h * H1 + o_h, mask=m_h, other=0.0)
            b_ell += tl.sum(b_m * b_diagonal, 1)
            if FORM == "gram":
                if KEEP:
                    b_e = tl.zeros((ROWS, DEPTH), tl.float32)
                    for i in range(num_columns):
                        p_part = p_columns + (tl.cast(i, tl.int64) * SLOTS + o_first) * H1
                        b_e += tl.load(p_part + o_r[:, None] * H1 + o_h, mask=m_h[None, :], other=0.0)
                    tl.store(p_slot[:, None] + o_squares + H2 + o_h, b_e, mask=m_h[None, :])
        tl.store(p_lap_u + b_row, b_phi * b_ell + b_psi * b_squared, mask=m_row)

    p_scalars = p_slot + 2 * H1 + H2 + D
    tl.store(p_scalars, b_u)
    tl.store(p_scalars + 1, b_o_dot)
    tl.store(p_scalars + 2, b_o_ddot)
    tl.store(p_scalars + 3, b_ell)
    tl.store(p_u + b_row, b_u, mask=m_row)
    tl.store(p_du_dt + b_row, b_phi * b_o_dot, mask=m_row)
    if SECOND:
        tl.store(p_d2u_dt2 + b_row, b_phi * b_o_ddot + b_psi * b_o_dot * b_o_dot, mask=m_row)
