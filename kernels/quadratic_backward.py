"""Equations (13) to (15) and (17) to (20), block by block of rows. Shapes and ``kept`` as in quadratic_forward.py.

What a row passes on stands in ``scalars`` (4, P): cotangents of o, ∂o/∂t, ∂²o/∂t² and ℓ. Padding has zero cotangents,
and is left out of every sum over rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ffrl.kernels.activation import (
    output_factors,
    slope,
    unit1,
    unit1_vjp_h1,
    unit1_vjp_q,
    unit2,
    unit2_vjp,
)
from ffrl.kernels.products import product, weight2_products
from ffrl.kernels.quadratic_forward import feature_rows


@triton.jit
def load_cotangent(p_v, b_row, m_row, GIVEN: tl.constexpr):
    """A cotangent of each row, zero where none was given."""
    if GIVEN:
        b_v = tl.load(p_v + b_row, mask=m_row, other=0.0)
    else:
        b_v = tl.zeros(b_row.shape, tl.float32)
    return b_v


@triton.jit
def rows_backward(
    p_weight3, p_slot_row, p_block_k, p_kept, p_v_u, p_v_du_dz, p_v_du_dt, p_v_d2u_dt2, p_v_lap_u,
    p_scalars, p_v_v, p_v_ell_c, D, H1, H2, WIDTH, SLOTS,
    TANH: tl.constexpr, HAS_U: tl.constexpr, HAS_DZ: tl.constexpr, HAS_DT: tl.constexpr, HAS_TT: tl.constexpr,
    HAS_LAP: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """(13), and λ c of (14) as (H2, P) for the products over rows."""
    i_block = tl.program_id(0)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    b_row = tl.load(p_slot_row + o_slot)
    b_k = tl.load(p_block_k + i_block)
    p_weight3 += b_k * H2
    p_kept += o_first * WIDTH
    p_v_v += o_first * D
    m_row = b_row >= 0
    p_slot = p_kept + o_r * WIDTH
    p_of_row = p_slot + 2 * H1 + H2 + D
    b_u = tl.load(p_of_row, mask=m_row, other=0.0)
    b_o_dot = tl.load(p_of_row + 1, mask=m_row, other=0.0)
    b_o_ddot = tl.load(p_of_row + 2, mask=m_row, other=0.0)
    b_ell = tl.load(p_of_row + 3, mask=m_row, other=0.0)
    b_v_u = load_cotangent(p_v_u, b_row, m_row, HAS_U)
    b_v_dt = load_cotangent(p_v_du_dt, b_row, m_row, HAS_DT)
    b_v_tt = load_cotangent(p_v_d2u_dt2, b_row, m_row, HAS_TT)
    b_v_lap = load_cotangent(p_v_lap_u, b_row, m_row, HAS_LAP)
    b_phi, b_psi = output_factors(b_u, TANH)

    b_v_phi = b_v_dt * b_o_dot
    if HAS_TT:
        b_v_phi += b_v_tt * b_o_ddot
    if HAS_LAP:
        b_v_phi += b_v_lap * b_ell
    b_squared = tl.zeros((ROWS,), tl.float32)
    for d in range(0, D, DEPTH):
        o_d = d + tl.arange(0, DEPTH)
        m_rd = m_row[:, None] & (o_d < D)
        b_v = tl.load(p_slot[:, None] + 2 * H1 + H2 + o_d, mask=m_rd, other=0.0)
        b_v_v = tl.zeros((ROWS, DEPTH), tl.float32)
        if HAS_DZ:
            b_v_dz = tl.load(p_v_du_dz + b_row[:, None] * D + o_d, mask=m_rd, other=0.0)
            b_v_phi += tl.sum(b_v_dz * b_v, 1)
            b_v_v += b_phi[:, None] * b_v_dz
        if HAS_LAP:
            b_squared += tl.sum(b_v * b_v, 1)
            b_v_v += (2.0 * b_v_lap * b_psi)[:, None] * b_v
        tl.store(p_v_v + o_r[:, None] * D + o_d, b_v_v, mask=(o_d < D)[None, :])
    b_v_output = b_v_u
    if TANH:
        b_v_psi = b_v_lap * b_squared
        if HAS_TT:
            b_v_psi += b_v_tt * b_o_dot * b_o_dot
        b_v_output = b_v_u - 2.0 * b_u * b_v_phi + (6.0 * b_u * b_u - 2.0) * b_v_psi
    b_v_o_dot = b_v_dt * b_phi
    if HAS_TT:
        b_v_o_dot += 2.0 * b_v_tt * b_psi * b_o_dot
    b_v_ell = b_v_lap * b_phi
    tl.store(p_scalars + o_slot, b_v_output * b_phi)
    tl.store(p_scalars + SLOTS + o_slot, b_v_o_dot)
    tl.store(p_scalars + 2 * SLOTS + o_slot, b_v_tt * b_phi)
    tl.store(p_scalars + 3 * SLOTS + o_slot, b_v_ell)
    if HAS_LAP:
        for j in range(0, H2, DEPTH):
            o_j = j + tl.arange(0, DEPTH)
            m_j = o_j < H2
            b_h2 = tl.load(p_slot[:, None] + 2 * H1 + o_j, mask=m_row[:, None] & m_j, other=0.0)
            _, b_c = unit2(b_h2, tl.load(p_weight3 + o_j, mask=m_j, other=0.0))
            p_out = p_v_ell_c + tl.cast(j, tl.int64) * SLOTS + o_first
            o_out = tl.arange(0, DEPTH).to(tl.int64) * SLOTS + o_r[:, None]
            tl.store(p_out + o_out, b_v_ell[:, None] * b_c, mask=m_j[None, :])


@triton.jit
def hidden1_backward(
    p_weight1, p_gram, p_slot_row, p_block_k, p_kept, p_scalars, p_v_v, p_v_d1, p_v_q, p_v_h1, p_diagonal_parts,
    D, H1, H2, WIDTH, SLOTS, FORM: tl.constexpr, HAS_V: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(15): v_q, and v_h1 without the part that comes through h1 + τ. v_d1 (P, H1) is the Jacobian form's, 2 λ e the
    Gram form's. diagonal_parts (blocks, H1): Σ λ m over the rows of a block."""
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    m_row = tl.load(p_slot_row + o_slot) >= 0
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_gram += b_k * H1 * H1
    p_kept += o_first * WIDTH
    p_v_v += o_first * D
    p_v_d1 += o_first * H1
    p_v_q += o_first * H1
    p_v_h1 += o_first * H1
    o_h = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_h = o_h < H1
    m_rh = m_row[:, None] & m_h
    b_v_r = tl.zeros((ROWS, COLUMNS), tl.float32)
    if HAS_V:
        b_v_r = product(p_v_v + o_r * D, m_row, p_weight1, 1, D, o_h, m_h, D, ROWS, COLUMNS, DEPTH, PRECISION)
    p_slot = p_kept + o_r[:, None] * WIDTH + o_h
    b_h1 = tl.load(p_slot, mask=m_rh, other=0.0)
    b_q = tl.load(p_slot + H1, mask=m_rh, other=0.0)
    b_v_m = tl.zeros((ROWS, COLUMNS), tl.float32)
    b_v_d1 = tl.zeros((ROWS, COLUMNS), tl.float32)
    if FORM != "none":
        b_v_ell = tl.load(p_scalars + 3 * SLOTS + o_slot)
        b_v_m += b_v_ell[:, None] * tl.load(p_gram + o_h * H1 + o_h, mask=m_h, other=0.0)
        if FORM == "gram":
            b_e = tl.load(p_slot + 2 * H1 + 2 * H2 + D + 4, mask=m_rh, other=0.0)
            b_v_d1 += 2.0 * b_v_ell[:, None] * b_e
        else:
            b_v_d1 += tl.load(p_v_d1 + o_r[:, None] * H1 + o_h, mask=m_rh, other=0.0)
        _, b_m = unit1(b_h1, b_q)
        tl.store(p_diagonal_parts + i_block.to(tl.int64) * H1 + o_h, tl.sum(b_v_ell[:, None] * b_m, 0), mask=m_h)
    o_out = o_r[:, None] * H1 + o_h
    tl.store(p_v_q + o_out, unit1_vjp_q(b_h1, b_v_r, b_v_m), mask=m_h[None, :])
    tl.store(p_v_h1 + o_out, unit1_vjp_h1(b_h1, b_q, b_v_r, b_v_m, b_v_d1), mask=m_h[None, :])


@triton.jit
def hidden2_backward(
    p_dtau_dt, p_d2tau_dt2, p_feature_row, p_weight2, p_weight3, p_slot_row, p_block_k, p_kept, p_scalars, p_v_q,
    p_v_a2, p_v_omega, p_v_omega2, p_bias2_parts, p_weight3_parts, D, H1, H2, WIDTH, SLOTS,
    FEATURES: tl.constexpr, LAPLACIAN: tl.constexpr, HAS_V: tl.constexpr, TIME: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(14), (17), (18) and v_a2 of (19), with v_omega = cotangent of W2 ∂τ/∂t, v_omega2 likewise; (P, H2) each.

    W2 times the time features is formed again: it is cheaper than to keep it.
    """
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    b_row = tl.load(p_slot_row + o_slot)
    b_k = tl.load(p_block_k + i_block)
    p_weight2 += b_k * H2 * H1
    p_weight3 += b_k * H2
    p_kept += o_first * WIDTH
    p_v_q += o_first * H1
    p_v_a2 += o_first * H2
    p_v_omega += o_first * H2
    p_v_omega2 += o_first * H2
    m_row = b_row >= 0
    b_feature = feature_rows(p_feature_row, b_row, m_row, FEATURES)
    o_j = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_j = o_j < H2
    b_v_p, b_omega, b_omega2 = weight2_products(
        p_v_q + o_r * H1, p_dtau_dt, p_dtau_dt, p_d2tau_dt2, b_feature, m_row, p_weight2, o_j, m_j, H1,
        HAS_V, False, TIME, SECOND, ROWS, COLUMNS, DEPTH, PRECISION,
    )  # fmt: skip
    m_rj = m_row[:, None] & m_j
    p_slot = p_kept + o_r[:, None] * WIDTH + o_j
    b_h2 = tl.load(p_slot + 2 * H1, mask=m_rj, other=0.0)
    b_weight3 = tl.load(p_weight3 + o_j, mask=m_j, other=0.0)[None, :]
    b_p, b_c = unit2(b_h2, b_weight3)
    b_v_o = tl.load(p_scalars + o_slot)[:, None]
    b_v_o_dot = tl.load(p_scalars + SLOTS + o_slot)[:, None]
    b_v_c = tl.zeros((ROWS, COLUMNS), tl.float32)
    if LAPLACIAN:
        b_s = tl.load(p_slot + 2 * H1 + H2 + D + 4, mask=m_rj, other=0.0)
        b_v_c += tl.load(p_scalars + 3 * SLOTS + o_slot)[:, None] * b_s
    o_out = o_r[:, None] * H2 + o_j
    if TIME:
        b_v_omega = b_v_o_dot * b_p
        b_v_p += b_v_o_dot * b_omega
        if SECOND:
            b_v_o_ddot = tl.load(p_scalars + 2 * SLOTS + o_slot)[:, None]
            b_v_omega += 2.0 * b_v_o_ddot * b_c * b_omega
            b_v_p += b_v_o_ddot * b_omega2
            b_v_c += b_v_o_ddot * b_omega * b_omega
            tl.store(p_v_omega2 + o_out, b_v_o_ddot * b_p, mask=m_j[None, :])
        tl.store(p_v_omega + o_out, b_v_omega, mask=m_j[None, :])
    b_v_a2, b_v_weight3 = unit2_vjp(b_h2, b_weight3, b_v_o, b_v_p, b_v_c)
    tl.store(p_v_a2 + o_out, b_v_a2, mask=m_j[None, :])
    o_part = i_block.to(tl.int64) * H2 + o_j
    tl.store(p_bias2_parts + o_part, tl.sum(tl.where(m_rj, b_v_a2, 0.0), 0), mask=m_j)
    tl.store(p_weight3_parts + o_part, tl.sum(tl.where(m_rj, b_v_weight3, 0.0), 0), mask=m_j)


@triton.jit
def sums_backward(
    p_weight2, p_slot_row, p_block_k, p_kept, p_v_h1, p_v_a2, p_v_omega, p_v_omega2, p_v_a1, p_v_tau, p_v_dtau_dt,
    p_v_d2tau_dt2, p_bias1_parts, H1, H2, WIDTH,
    VALUES: tl.constexpr, TIME: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(17), (19), (20): v_a1 (P, H1), and the cotangents of the time features of each row, (N, H1)."""
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    b_row = tl.load(p_slot_row + o_slot)
    b_k = tl.load(p_block_k + i_block)
    p_weight2 += b_k * H2 * H1
    p_kept += o_first * WIDTH
    p_v_h1 += o_first * H1
    p_v_a2 += o_first * H2
    p_v_omega += o_first * H2
    p_v_omega2 += o_first * H2
    p_v_a1 += o_first * H1
    m_row = b_row >= 0
    o_h = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_h = o_h < H1
    b_v_sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    b_v_rate = tl.zeros((ROWS, COLUMNS), tl.float32)
    b_v_rate2 = tl.zeros((ROWS, COLUMNS), tl.float32)
    for j in range(0, H2, DEPTH):
        o_j = j + tl.arange(0, DEPTH)
        m_j = o_j < H2
        o_in = o_r[:, None] * H2 + o_j
        b_weight = tl.load(p_weight2 + o_j[:, None] * H1 + o_h, mask=m_j[:, None] & m_h, other=0.0)
        b_v_a2 = tl.load(p_v_a2 + o_in, mask=m_j[None, :], other=0.0)
        b_v_sum = tl.dot(b_v_a2, b_weight, b_v_sum, input_precision=PRECISION)
        if VALUES and TIME:
            b_v_omega = tl.load(p_v_omega + o_in, mask=m_j[None, :], other=0.0)
            b_v_rate = tl.dot(b_v_omega, b_weight, b_v_rate, input_precision=PRECISION)
            if SECOND:
                b_v_omega2 = tl.load(p_v_omega2 + o_in, mask=m_j[None, :], other=0.0)
                b_v_rate2 = tl.dot(b_v_omega2, b_weight, b_v_rate2, input_precision=PRECISION)
    m_rh = m_row[:, None] & m_h
    b_h1 = tl.load(p_kept + o_r[:, None] * WIDTH + o_h, mask=m_rh, other=0.0)
    b_v_h1 = tl.load(p_v_h1 + o_r[:, None] * H1 + o_h, mask=m_rh, other=0.0) + b_v_sum
    b_v_a1 = tl.where(m_rh, b_v_h1 * slope(b_h1), 0.0)
    tl.store(p_v_a1 + o_r[:, None] * H1 + o_h, b_v_a1, mask=m_h[None, :])
    tl.store(p_bias1_parts + i_block.to(tl.int64) * H1 + o_h, tl.sum(b_v_a1, 0), mask=m_h)
    if VALUES:
        o_out = b_row[:, None] * H1 + o_h
        tl.store(p_v_tau + o_out, b_v_sum, mask=m_rh)
        if TIME:
            tl.store(p_v_dtau_dt + o_out, b_v_rate, mask=m_rh)
            if SECOND:
                tl.store(p_v_d2tau_dt2 + o_out, b_v_rate2, mask=m_rh)


@triton.jit
def z_backward(
    p_weight1, p_slot_row, p_block_k, p_v_a1, p_v_z, D, H1,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(20): v_z = W1ᵀ v_a1."""
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    b_row = tl.load(p_slot_row + o_slot)
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_v_a1 += o_first * H1
    o_d = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_d = o_d < D
    m_row = b_row >= 0
    b_v_z = product(p_v_a1 + o_r * H1, m_row, p_weight1, D, 1, o_d, m_d, H1, ROWS, COLUMNS, DEPTH, PRECISION)
    tl.store(p_v_z + b_row[:, None] * D + o_d, b_v_z, mask=m_row[:, None] & m_d)
