"""The flow z_t = z_{t-1} ± ∇u(z_{t-1}, t) over all its steps in one launch, and its way back.

A program carries ROWS rows of one potential along all steps. Its threads pass each other what a step makes through
global memory, between barriers; no program waits for another. A step is equations (1) to (6) of docs/derivation.md, and
on the way back (13) to (20) without the Laplacian.

Shapes: B rows, T steps, P slots (rows in blocks of BLOCK_ROWS, padded). z is (B, T+1, D), what belongs to a step
(B, T, ...). ``kept`` is that of quadratic_forward.py, block after block and in each step after step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ffrl.kernels.activation import (
    output_activation,
    output_factors,
    slope,
    tanh,
    unit1_vjp_h1,
    unit1_vjp_q,
    unit2,
    unit2_vjp,
)
from ffrl.kernels.products import product, q_tile, v_tile, weight2_products


@triton.jit
def rows_of_program(p_slot_row, BLOCK_ROWS: tl.constexpr, ROWS: tl.constexpr):
    """Block, first row in it, and the row of the batch in each slot of this program."""
    i_block = tl.program_id(0) // (BLOCK_ROWS // ROWS)
    o_sub = tl.program_id(0) % (BLOCK_ROWS // ROWS) * ROWS
    b_row = tl.load(p_slot_row + i_block.to(tl.int64) * BLOCK_ROWS + o_sub + tl.arange(0, ROWS))
    return i_block, o_sub, b_row


@triton.jit
def sizes_again(p_zero, D, H1, H2):
    """The sizes, as the compiler cannot know them from the step before.

    Otherwise it would keep the offsets into all weights in registers over all steps, where they do not fit.
    """
    zero = tl.load(p_zero, volatile=True)
    return D + zero, H1 + zero, H2 + zero


@triton.jit
def rollout_forward(
    p_z0, p_tau, p_dtau_dt, p_weight1, p_bias1, p_weight2, p_bias2, p_weight3, p_bias3, p_slot_row, p_block_k, p_kept,
    p_z, p_du_dz, p_du_dt, p_zero, num_steps, steps_kept, D, H1, H2, WIDTH,
    SIGN: tl.constexpr, MIXED: tl.constexpr, TANH: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All states, velocities and ∂u/∂t. ``steps_kept`` is num_steps, or 1 where no backward follows.

    Time features of step t are row t - 1 of those of the potential: (K, T, H1), or (T, H1) without MIXED.
    """
    i_block, o_sub, b_row = rows_of_program(p_slot_row, BLOCK_ROWS, ROWS)
    m_row = b_row >= 0
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_bias1 += b_k * H1
    p_weight2 += b_k * H2 * H1
    p_bias2 += b_k * H2
    p_weight3 += b_k * H2
    o_feature = b_k * 0
    if MIXED:
        o_feature = b_k * num_steps
    b_bias3 = tl.load(p_bias3 + b_k)
    for d in range(0, D, COLUMNS):
        o_d = d + tl.arange(0, COLUMNS)
        m_rd = m_row[:, None] & (o_d < D)
        b_z = tl.load(p_z0 + b_row[:, None] * D + o_d, mask=m_rd, other=0.0)
        tl.store(p_z + b_row[:, None] * (num_steps + 1) * D + o_d, b_z, mask=m_rd)
    tl.debug_barrier()
    for step in range(num_steps):
        o_slot = (i_block.to(tl.int64) * steps_kept + step % steps_kept) * BLOCK_ROWS + o_sub + tl.arange(0, ROWS)
        p_slot = p_kept + o_slot * WIDTH
        p_from = p_z + (b_row * (num_steps + 1) + step) * D
        b_step_row = b_row * num_steps + step
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for h in range(0, n_h1, COLUMNS):
            o_h = h + tl.arange(0, COLUMNS)
            m_h = o_h < n_h1
            b_a1 = product(p_from, m_row, p_weight1, 1, n_d, o_h, m_h, n_d, ROWS, COLUMNS, DEPTH, PRECISION)
            b_h1 = tanh(b_a1 + tl.load(p_bias1 + o_h, mask=m_h, other=0.0))
            tl.store(p_slot[:, None] + o_h, b_h1, mask=m_h[None, :])
        tl.debug_barrier()
        b_o = tl.zeros((ROWS,), tl.float32) + b_bias3
        b_o_dot = tl.zeros((ROWS,), tl.float32)
        b_feature = tl.zeros((ROWS,), tl.int64) + o_feature + step
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for j in range(0, n_h2, COLUMNS):
            o_j = j + tl.arange(0, COLUMNS)
            m_j = o_j < n_h2
            b_a2, b_omega, _b_omega2 = weight2_products(
                p_slot, p_tau, p_dtau_dt, p_dtau_dt, b_feature, m_row, p_weight2, o_j, m_j, n_h1,
                True, True, True, False, ROWS, COLUMNS, DEPTH, PRECISION,
            )  # fmt: skip
            b_h2 = tanh(b_a2 + tl.load(p_bias2 + o_j, mask=m_j, other=0.0))
            b_weight3 = tl.load(p_weight3 + o_j, mask=m_j, other=0.0)
            b_p, _b_c = unit2(b_h2, b_weight3)
            b_o += tl.sum(b_h2 * b_weight3, 1)
            b_o_dot += tl.sum(b_p * b_omega, 1)
            tl.store(p_slot[:, None] + 2 * n_h1 + o_j, b_h2, mask=m_j[None, :])
        b_u, b_phi, _b_psi = output_activation(b_o, TANH)
        p_scalars = p_slot + 2 * n_h1 + n_h2 + n_d
        tl.store(p_scalars, b_u)
        tl.store(p_scalars + 1, b_o_dot)
        tl.store(p_scalars + 2, tl.zeros((ROWS,), tl.float32))  # ∂²o/∂t² and ℓ, which nobody asks for
        tl.store(p_scalars + 3, tl.zeros((ROWS,), tl.float32))
        tl.store(p_du_dt + b_step_row, b_phi * b_o_dot, mask=m_row)
        tl.debug_barrier()
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for h in range(0, n_h1, COLUMNS):
            o_h = h + tl.arange(0, COLUMNS)
            m_h = o_h < n_h1
            b_q = q_tile(p_slot + 2 * n_h1, p_weight2, p_weight3, o_h, m_h, n_h1, n_h2, ROWS, COLUMNS, DEPTH, PRECISION)
            tl.store(p_slot[:, None] + n_h1 + o_h, b_q, mask=m_h[None, :])
        tl.debug_barrier()
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for d in range(0, n_d, COLUMNS):
            o_d = d + tl.arange(0, COLUMNS)
            m_d = o_d < n_d
            m_rd = m_row[:, None] & m_d
            b_v = v_tile(p_slot, p_slot + n_h1, p_weight1, o_d, m_d, n_d, n_h1, ROWS, COLUMNS, DEPTH, PRECISION)
            tl.store(p_slot[:, None] + 2 * n_h1 + n_h2 + o_d, b_v, mask=m_d[None, :])
            b_velocity = b_phi[:, None] * b_v
            tl.store(p_du_dz + b_step_row[:, None] * n_d + o_d, b_velocity, mask=m_rd)
            b_z = tl.load(p_from[:, None] + o_d, mask=m_rd, other=0.0)
            tl.store(p_from[:, None] + n_d + o_d, b_z + SIGN * b_velocity, mask=m_rd)
        tl.debug_barrier()


@triton.jit
def rollout_backward(
    p_dtau_dt, p_weight1, p_weight2, p_weight3, p_slot_row, p_block_k, p_kept, p_v_z, p_v_du_dz, p_v_du_dt,
    p_v_v, p_v_q, p_v_h1, p_v_a2, p_v_a1, p_v_velocity, p_v_z0, p_zero, num_steps, D, H1, H2, WIDTH,
    SIGN: tl.constexpr, MIXED: tl.constexpr, TANH: tl.constexpr, HAS_Z: tl.constexpr, HAS_DZ: tl.constexpr,
    TIME: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Cotangents of all velocities, what comes through later states included, and of z0.

    λ_T = v_z[T]; γ_t = v_du_dz[t] ± λ_t; λ_{t-1} = v_z[t-1] + λ_t + what the potential at (z_{t-1}, t) makes of the
    cotangents γ_t of ∇u and v_du_dt[t] of ∂u/∂t. v_velocity (B, T, D) is γ, from which the op's own backward over all
    T·B rows takes the gradients of weights and time features; λ stands in v_z0 (B, D). v_v (P, D), v_q, v_h1, v_a1
    (P, H1) and v_a2 (P, H2) are of one step.
    """
    i_block, o_sub, b_row = rows_of_program(p_slot_row, BLOCK_ROWS, ROWS)
    m_row = b_row >= 0
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_weight2 += b_k * H2 * H1
    p_weight3 += b_k * H2
    o_feature = b_k * 0
    if MIXED:
        o_feature = b_k * num_steps
    o_scratch = i_block.to(tl.int64) * BLOCK_ROWS + o_sub + tl.arange(0, ROWS)
    p_v_v += o_scratch * D
    p_v_q += o_scratch * H1
    p_v_h1 += o_scratch * H1
    p_v_a2 += o_scratch * H2
    p_v_a1 += o_scratch * H1
    p_lambda = p_v_z0 + b_row * D
    for d in range(0, D, COLUMNS):
        o_d = d + tl.arange(0, COLUMNS)
        m_rd = m_row[:, None] & (o_d < D)
        b_lambda = tl.zeros((ROWS, COLUMNS), tl.float32)
        if HAS_Z:
            b_lambda += tl.load(p_v_z + (b_row * (num_steps + 1) + num_steps)[:, None] * D + o_d, mask=m_rd, other=0.0)
        tl.store(p_lambda[:, None] + o_d, b_lambda, mask=m_rd)
    tl.debug_barrier()
    for back in range(num_steps):
        step = num_steps - 1 - back
        o_slot = (i_block.to(tl.int64) * num_steps + step) * BLOCK_ROWS + o_sub + tl.arange(0, ROWS)
        p_slot = p_kept + o_slot * WIDTH
        b_step_row = b_row * num_steps + step
        b_u = tl.load(p_slot + 2 * H1 + H2 + D, mask=m_row, other=0.0)
        b_phi, _b_psi = output_factors(b_u, TANH)
        b_v_phi = tl.zeros((ROWS,), tl.float32)
        b_v_o_dot = tl.zeros((ROWS,), tl.float32)
        if TIME:
            b_v_dt = tl.load(p_v_du_dt + b_step_row, mask=m_row, other=0.0)
            b_v_phi += b_v_dt * tl.load(p_slot + 2 * H1 + H2 + D + 1, mask=m_row, other=0.0)
            b_v_o_dot += b_v_dt * b_phi
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for d in range(0, n_d, COLUMNS):
            o_d = d + tl.arange(0, COLUMNS)
            m_rd = m_row[:, None] & (o_d < n_d)
            b_gamma = SIGN * tl.load(p_lambda[:, None] + o_d, mask=m_rd, other=0.0)
            if HAS_DZ:
                b_gamma += tl.load(p_v_du_dz + b_step_row[:, None] * n_d + o_d, mask=m_rd, other=0.0)
            tl.store(p_v_velocity + b_step_row[:, None] * n_d + o_d, b_gamma, mask=m_rd)
            tl.store(p_v_v[:, None] + o_d, b_phi[:, None] * b_gamma, mask=m_rd)
            b_v_phi += tl.sum(b_gamma * tl.load(p_slot[:, None] + 2 * n_h1 + n_h2 + o_d, mask=m_rd, other=0.0), 1)
        b_v_o = tl.zeros((ROWS,), tl.float32)
        if TANH:
            b_v_o += -2.0 * b_u * b_v_phi * b_phi
        tl.debug_barrier()
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for h in range(0, n_h1, COLUMNS):
            o_h = h + tl.arange(0, COLUMNS)
            m_h = o_h < n_h1
            m_rh = m_row[:, None] & m_h
            b_v_r = product(p_v_v, m_row, p_weight1, 1, n_d, o_h, m_h, n_d, ROWS, COLUMNS, DEPTH, PRECISION)
            b_h1 = tl.load(p_slot[:, None] + o_h, mask=m_rh, other=0.0)
            b_q = tl.load(p_slot[:, None] + n_h1 + o_h, mask=m_rh, other=0.0)
            tl.store(p_v_q[:, None] + o_h, unit1_vjp_q(b_h1, b_v_r, 0.0), mask=m_rh)
            tl.store(p_v_h1[:, None] + o_h, unit1_vjp_h1(b_h1, b_q, b_v_r, 0.0, 0.0), mask=m_rh)
        tl.debug_barrier()
        b_feature = tl.zeros((ROWS,), tl.int64) + o_feature + step
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for j in range(0, n_h2, COLUMNS):
            o_j = j + tl.arange(0, COLUMNS)
            m_j = o_j < n_h2
            m_rj = m_row[:, None] & m_j
            b_v_p, b_omega, _b_omega2 = weight2_products(
                p_v_q, p_dtau_dt, p_dtau_dt, p_dtau_dt, b_feature, m_row, p_weight2, o_j, m_j, n_h1,
                True, False, TIME, False, ROWS, COLUMNS, DEPTH, PRECISION,
            )  # fmt: skip
            b_v_p += b_v_o_dot[:, None] * b_omega
            b_h2 = tl.load(p_slot[:, None] + 2 * n_h1 + o_j, mask=m_rj, other=0.0)
            b_weight3 = tl.load(p_weight3 + o_j, mask=m_j, other=0.0)[None, :]
            b_v_a2, _b_v_weight3 = unit2_vjp(b_h2, b_weight3, b_v_o[:, None], b_v_p, 0.0)
            tl.store(p_v_a2[:, None] + o_j, b_v_a2, mask=m_rj)
        tl.debug_barrier()
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for h in range(0, n_h1, COLUMNS):
            o_h = h + tl.arange(0, COLUMNS)
            m_h = o_h < n_h1
            m_rh = m_row[:, None] & m_h
            b_v_h1 = product(p_v_a2, m_row, p_weight2, n_h1, 1, o_h, m_h, n_h2, ROWS, COLUMNS, DEPTH, PRECISION)
            b_v_h1 += tl.load(p_v_h1[:, None] + o_h, mask=m_rh, other=0.0)
            b_h1 = tl.load(p_slot[:, None] + o_h, mask=m_rh, other=0.0)
            tl.store(p_v_a1[:, None] + o_h, b_v_h1 * slope(b_h1), mask=m_rh)
        tl.debug_barrier()
        n_d, n_h1, n_h2 = sizes_again(p_zero, D, H1, H2)
        for d in range(0, n_d, COLUMNS):
            o_d = d + tl.arange(0, COLUMNS)
            m_d = o_d < n_d
            m_rd = m_row[:, None] & m_d
            b_lambda = product(p_v_a1, m_row, p_weight1, n_d, 1, o_d, m_d, n_h1, ROWS, COLUMNS, DEPTH, PRECISION)
            b_lambda += tl.load(p_lambda[:, None] + o_d, mask=m_rd, other=0.0)
            if HAS_Z:
                b_lambda += tl.load(p_v_z + (b_row * (num_steps + 1) + step)[:, None] * n_d + o_d, mask=m_rd, other=0.0)
            tl.store(p_lambda[:, None] + o_d, b_lambda, mask=m_rd)
        tl.debug_barrier()
