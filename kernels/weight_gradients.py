"""Products over rows: (15), (17) and (19) for W1 and W2.

Grid (tiles · tiles, chunks, K): a program sums over one chunk of its potential's blocks, into parts (chunks, K, ...).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ffrl.kernels.activation import unit1, unit2
from ffrl.kernels.quadratic_forward import feature_rows
from ffrl.kernels.row_sums import chunk_of_segment, load_rows


@triton.jit
def weight1_gradient(
    p_z, p_slot_row, p_first_block, p_kept, p_v_v, p_v_a1, p_parts, D, H1, WIDTH,
    HAS_V: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """parts (chunks, K, H1, D) of v_weight1 = Σ_n r v_vᵀ + v_a1 zᵀ."""
    i_pair, i_chunk, i_k = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    num_tiles = tl.cdiv(D, COLUMNS)
    o_r = tl.arange(0, DEPTH)
    o_h = i_pair // num_tiles * COLUMNS + tl.arange(0, COLUMNS)
    o_d = i_pair % num_tiles * COLUMNS + tl.arange(0, COLUMNS)
    m_h = o_h < H1
    m_d = o_d < D
    b_sum = tl.zeros((COLUMNS, COLUMNS), tl.float32)
    first, last = chunk_of_segment(p_first_block, i_k, i_chunk, tl.num_programs(1))
    for o_first in range(first * ROWS, last * ROWS, DEPTH):
        b_row = tl.load(p_slot_row + o_first + o_r)
        m_row = b_row >= 0
        b_v_a1 = load_rows(p_v_a1, o_first, o_r, m_row, o_h, m_h, H1)
        b_z = tl.load(p_z + b_row[:, None] * D + o_d, mask=m_row[:, None] & m_d, other=0.0)
        b_sum = tl.dot(tl.trans(b_v_a1), b_z, b_sum, input_precision=PRECISION)
        if HAS_V:
            b_h1 = load_rows(p_kept, o_first, o_r, m_row, o_h, m_h, WIDTH)
            b_r, _ = unit1(b_h1, load_rows(p_kept + H1, o_first, o_r, m_row, o_h, m_h, WIDTH))
            b_v_v = load_rows(p_v_v, o_first, o_r, m_row, o_d, m_d, D)
            b_sum = tl.dot(tl.trans(b_r), b_v_v, b_sum, input_precision=PRECISION)
    p_parts += (i_chunk * tl.num_programs(2) + i_k) * H1 * D
    tl.store(p_parts + o_h[:, None] * D + o_d, b_sum, mask=m_h[:, None] & m_d)


@triton.jit
def weight2_gradient(
    p_tau, p_dtau_dt, p_d2tau_dt2, p_feature_row, p_weight3, p_slot_row, p_first_block, p_kept, p_v_q, p_v_a2,
    p_v_omega, p_v_omega2, p_parts, H1, H2, WIDTH,
    FEATURES: tl.constexpr, HAS_V: tl.constexpr, TIME: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """parts (chunks, K, H2, H1) of v_weight2 = Σ_n p v_qᵀ + v_a2 (h1 + τ)ᵀ + v_omega ∂τ/∂tᵀ + v_omega2 ∂²τ/∂t²ᵀ."""
    i_pair, i_chunk, i_k = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    num_tiles = tl.cdiv(H1, COLUMNS)
    o_r = tl.arange(0, DEPTH)
    o_j = i_pair // num_tiles * COLUMNS + tl.arange(0, COLUMNS)
    o_h = i_pair % num_tiles * COLUMNS + tl.arange(0, COLUMNS)
    m_j = o_j < H2
    m_h = o_h < H1
    b_weight3 = tl.load(p_weight3 + i_k * H2 + o_j, mask=m_j, other=0.0)[None, :]
    b_sum = tl.zeros((COLUMNS, COLUMNS), tl.float32)
    first, last = chunk_of_segment(p_first_block, i_k, i_chunk, tl.num_programs(1))
    for o_first in range(first * ROWS, last * ROWS, DEPTH):
        b_row = tl.load(p_slot_row + o_first + o_r)
        m_row = b_row >= 0
        m_rh = m_row[:, None] & m_h
        o_feature = feature_rows(p_feature_row, b_row, m_row, FEATURES)[:, None] * H1 + o_h
        b_v_a2 = load_rows(p_v_a2, o_first, o_r, m_row, o_j, m_j, H2)
        b_right = load_rows(p_kept, o_first, o_r, m_row, o_h, m_h, WIDTH)
        b_right += tl.load(p_tau + o_feature, mask=m_rh, other=0.0)
        b_sum = tl.dot(tl.trans(b_v_a2), b_right, b_sum, input_precision=PRECISION)
        if HAS_V:
            b_p, _ = unit2(load_rows(p_kept + 2 * H1, o_first, o_r, m_row, o_j, m_j, WIDTH), b_weight3)
            b_v_q = load_rows(p_v_q, o_first, o_r, m_row, o_h, m_h, H1)
            b_sum = tl.dot(tl.trans(b_p), b_v_q, b_sum, input_precision=PRECISION)
        if TIME:
            b_v_omega = load_rows(p_v_omega, o_first, o_r, m_row, o_j, m_j, H2)
            b_rate = tl.load(p_dtau_dt + o_feature, mask=m_rh, other=0.0)
            b_sum = tl.dot(tl.trans(b_v_omega), b_rate, b_sum, input_precision=PRECISION)
        if SECOND:
            b_v_omega2 = load_rows(p_v_omega2, o_first, o_r, m_row, o_j, m_j, H2)
            b_rate2 = tl.load(p_d2tau_dt2 + o_feature, mask=m_rh, other=0.0)
            b_sum = tl.dot(tl.trans(b_v_omega2), b_rate2, b_sum, input_precision=PRECISION)
    p_parts += (i_chunk * tl.num_programs(2) + i_k) * H2 * H1
    tl.store(p_parts + o_j[:, None] * H1 + o_h, b_sum, mask=m_j[:, None] & m_h)
