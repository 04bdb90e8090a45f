"""Products over rows: (15), (17) and (19) for W1 and W2. Each program sums over all blocks of its potential."""

from __future__ import annotations

import triton
import triton.language as tl

from ffrl.kernels.activation import unit1, unit2
from ffrl.kernels.quadratic_forward import feature_rows


@triton.jit
def weight1_gradient(
    p_z, p_slot_row, p_first_block, p_kept, p_v_v, p_v_a1, p_extra, p_out, D, H1, H2, WIDTH,
    HAS_V: tl.constexpr, EXTRA: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """v_weight1 (K, H1, D) = Σ_n r v_vᵀ + v_a1 zᵀ, and what the Laplacian adds: ``extra``, of the same shape."""
    i_tile, j_tile, i_k = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    p_out += i_k * H1 * D
    p_extra += i_k * H1 * D
    o_r = tl.arange(0, DEPTH)
    o_h = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    o_d = j_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_h = o_h < H1
    m_d = o_d < D
    b_sum = tl.zeros((COLUMNS, COLUMNS), tl.float32)
    first = tl.load(p_first_block + i_k) * ROWS
    for o_first in range(first, tl.load(p_first_block + i_k + 1) * ROWS, DEPTH):
        b_row = tl.load(p_slot_row + o_first + o_r)
        m_rh = (b_row >= 0)[:, None] & m_h
        m_rd = (b_row >= 0)[:, None] & m_d
        b_v_a1 = tl.load(p_v_a1 + o_first * H1 + o_r[:, None] * H1 + o_h, mask=m_rh, other=0.0)
        b_z = tl.load(p_z + b_row[:, None] * D + o_d, mask=m_rd, other=0.0)
        b_sum = tl.dot(tl.trans(b_v_a1), b_z, b_sum, input_precision=PRECISION)
        if HAS_V:
            p_slot = p_kept + o_first * WIDTH + o_r[:, None] * WIDTH + o_h
            b_r, _ = unit1(tl.load(p_slot, mask=m_rh, other=0.0), tl.load(p_slot + H1, mask=m_rh, other=0.0))
            b_v_v = tl.load(p_v_v + o_first * D + o_r[:, None] * D + o_d, mask=m_rd, other=0.0)
            b_sum = tl.dot(tl.trans(b_r), b_v_v, b_sum, input_precision=PRECISION)
    o_out = o_h[:, None] * D + o_d
    m_out = m_h[:, None] & m_d
    if EXTRA:
        b_sum += tl.load(p_extra + o_out, mask=m_out, other=0.0)
    tl.store(p_out + o_out, b_sum, mask=m_out)


@triton.jit
def weight2_gradient(
    p_tau, p_dtau_dt, p_d2tau_dt2, p_feature_row, p_weight3, p_slot_row, p_first_block, p_kept, p_v_q, p_v_a2,
    p_v_omega, p_v_omega2, p_extra, p_out, H1, H2, WIDTH,
    FEATURES: tl.constexpr, HAS_V: tl.constexpr, TIME: tl.constexpr, SECOND: tl.constexpr, EXTRA: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """v_weight2 (K, H2, H1) = Σ_n p v_qᵀ + v_a2 (h1 + τ)ᵀ + v_omega ∂τ/∂tᵀ + v_omega2 ∂²τ/∂t²ᵀ, and ``extra``."""
    i_tile, j_tile, i_k = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    p_weight3 += i_k * H2
    p_out += i_k * H2 * H1
    p_extra += i_k * H2 * H1
    o_r = tl.arange(0, DEPTH)
    o_j = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    o_h = j_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_j = o_j < H2
    m_h = o_h < H1
    b_weight3 = tl.load(p_weight3 + o_j, mask=m_j, other=0.0)[None, :]
    b_sum = tl.zeros((COLUMNS, COLUMNS), tl.float32)
    first = tl.load(p_first_block + i_k) * ROWS
    for o_first in range(first, tl.load(p_first_block + i_k + 1) * ROWS, DEPTH):
        b_row = tl.load(p_slot_row + o_first + o_r)
        m_row = b_row >= 0
        m_rj = m_row[:, None] & m_j
        m_rh = m_row[:, None] & m_h
        o_feature = feature_rows(p_feature_row, b_row, m_row, FEATURES)[:, None] * H1 + o_h
        o_left = o_r[:, None] * H2 + o_j
        b_v_a2 = tl.load(p_v_a2 + o_first * H2 + o_left, mask=m_rj, other=0.0)
        b_right = tl.load(p_kept + o_first * WIDTH + o_r[:, None] * WIDTH + o_h, mask=m_rh, other=0.0)
        b_right += tl.load(p_tau + o_feature, mask=m_rh, other=0.0)
        b_sum = tl.dot(tl.trans(b_v_a2), b_right, b_sum, input_precision=PRECISION)
        if HAS_V:
            b_h2 = tl.load(p_kept + o_first * WIDTH + o_r[:, None] * WIDTH + 2 * H1 + o_j, mask=m_rj, other=0.0)
            b_p, _ = unit2(b_h2, b_weight3)
            b_v_q = tl.load(p_v_q + o_first * H1 + o_r[:, None] * H1 + o_h, mask=m_rh, other=0.0)
            b_sum = tl.dot(tl.trans(b_p), b_v_q, b_sum, input_precision=PRECISION)
        if TIME:
            b_v_omega = tl.load(p_v_omega + o_first * H2 + o_left, mask=m_rj, other=0.0)
            b_rate = tl.load(p_dtau_dt + o_feature, mask=m_rh, other=0.0)
            b_sum = tl.dot(tl.trans(b_v_omega), b_rate, b_sum, input_precision=PRECISION)
        if SECOND:
            b_v_omega2 = tl.load(p_v_omega2 + o_first * H2 + o_left, mask=m_rj, other=0.0)
            b_rate2 = tl.load(p_d2tau_dt2 + o_feature, mask=m_rh, other=0.0)
            b_sum = tl.dot(tl.trans(b_v_omega2), b_rate2, b_sum, input_precision=PRECISION)
    o_out = o_j[:, None] * H1 + o_h
    m_out = m_j[:, None] & m_h
    if EXTRA:
        b_sum += tl.load(p_extra + o_out, mask=m_out, other=0.0)
    tl.store(p_out + o_out, b_sum, mask=m_out)
