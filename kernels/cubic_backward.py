"""Equation (16) in both forms: the cubic part of the gradients of W1 and W2."""

from __future__ import annotations

import triton
import triton.language as tl

from ffrl.kernels.row_sums import chunk_of_segment, load_rows


@triton.jit
def gram_backward(
    p_weight2, p_gram, p_first_block, p_d1, p_v_ell_c, p_weight2_parts, p_gram_parts,
    H1, H2, STRIDE, SLOTS, K,
    UNITS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(16), Gram form: a tile of T_j = Σ_n (λ c_j) d1 d1ᵀ in the lower half, for UNITS units j of a chunk at a time.

    d1 (P, STRIDE) is padded with zeros to a multiple of 16 columns; it is zero in slots without a row, and so is λ c.
    Grid (tiles · (tiles + 1) / 2, chunks, K). T_j is consumed where it is: gram_parts (chunks, K, H1, H1) gets
    Σ_j T_j ∘ W2[j] W2[j]ᵀ in the lower tiles, weight2_parts (tiles, K, H2, H1) gets 2 (T_j ∘ G) W2[j] from this tile's
    columns, and from its rows for the upper half.
    """
    i_pair, i_chunk, i_k = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    p_weight2 += i_k * H2 * H1
    p_weight2_parts += i_k * H2 * H1
    p_gram += i_k * H1 * H1
    num_chunks = tl.num_programs(1)
    # Pair of tiles i_left >= i_right in the order (0, 0), (1, 0), (1, 1), (2, 0) ...
    i_left = 0
    i_right = i_pair
    while i_right > i_left:
        i_left += 1
        i_right -= i_left
    o_left = i_left * COLUMNS + tl.arange(0, COLUMNS)
    o_right = i_right * COLUMNS + tl.arange(0, COLUMNS)
    m_left = o_left < H1
    m_right = o_right < H1
    m_tile = m_left[:, None] & m_right
    b_gram = tl.load(p_gram + o_left[:, None] * H1 + o_right, mask=m_tile, other=0.0)
    b_v_gram = tl.zeros((COLUMNS, COLUMNS), tl.float32)
    o_r = tl.arange(0, DEPTH)
    o_u = tl.arange(0, UNITS)
    first = tl.load(p_first_block + i_k) * ROWS
    last = tl.load(p_first_block + i_k + 1) * ROWS
    end = H2 * (i_chunk + 1) // num_chunks
    for j in range(H2 * i_chunk // num_chunks, end, UNITS):
        o_j = j + o_u
        m_j = o_j < end
        b_t = tl.zeros((UNITS * COLUMNS, COLUMNS), tl.float32)
        for o_first in range(first, last, DEPTH):
            o_slot = o_first + o_r
            b_factor = tl.load(p_v_ell_c + o_j.to(tl.int64)[:, None] * SLOTS + o_slot, mask=m_j[:, None], other=0.0)
            p_rows = p_d1 + o_first * STRIDE + o_r[:, None] * STRIDE
            b_d1_left = tl.load(p_rows + o_left, mask=(o_left < STRIDE)[None, :], other=0.0)
            b_d1_right = tl.load(p_rows + o_right, mask=(o_right < STRIDE)[None, :], other=0.0)
            b_left = tl.reshape(b_factor[:, None, :] * tl.trans(b_d1_left)[None, :, :], (UNITS * COLUMNS, DEPTH))
            b_t = tl.dot(b_left, b_d1_right, b_t, input_precision=PRECISION)
        b_t_of_unit = tl.reshape(b_t, (UNITS, COLUMNS, COLUMNS))
        o_weight = o_j[:, None] * H1
        b_weight_left = tl.load(p_weight2 + o_weight + o_left, mask=m_j[:, None] & m_left, other=0.0)
        b_weight_right = tl.load(p_weight2 + o_weight + o_right, mask=m_j[:, None] & m_right, other=0.0)
        b_v_gram += tl.sum(b_t_of_unit * (b_weight_left[:, :, None] * b_weight_right[:, None, :]), 0)
        b_weighted = 2.0 * b_t_of_unit * b_gram[None, :, :]
        p_part = p_weight2_parts + i_right.to(tl.int64) * K * H2 * H1 + o_weight
        tl.store(p_part + o_left, tl.sum(b_weighted * b_weight_right[:, None, :], 2), mask=m_j[:, None] & m_left)
        if i_left != i_right:
            p_part = p_weight2_parts + i_left.to(tl.int64) * K * H2 * H1 + o_weight
            tl.store(p_part + o_right, tl.sum(b_weighted * b_weight_left[:, :, None], 1), mask=m_j[:, None] & m_right)
    p_gram_parts += (i_chunk.to(tl.int64) * K + i_k) * H1 * H1
    tl.store(p_gram_parts + o_left[:, None] * H1 + o_right, b_v_gram, mask=m_tile)


@triton.jit
def jacobian_cotangent(
    p_weight1, p_weight2, p_block_k, p_d1, p_v_ell_c, p_v_jacobian, first, D, H1, H2, SLOTS,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """J̄_d = 2 λ c ∘ J_d, the Jacobian formed again: v_jacobian (dims, P, H2). Grid (blocks, tiles, dims)."""
    i_block, i_tile, i_dim = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_weight2 += b_k * H2 * H1
    p_d1 += o_first * H1
    o_j = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_j = o_j < H2
    b_jacobian = tl.zeros((ROWS, COLUMNS), tl.float32)
    for h in range(0, H1, DEPTH):
        o_h = h + tl.arange(0, DEPTH)
        m_h = o_h < H1
        b_d1 = tl.load(p_d1 + o_r[:, None] * H1 + o_h, mask=m_h[None, :], other=0.0)
        b_x = b_d1 * tl.load(p_weight1 + o_h * D + first + i_dim, mask=m_h, other=0.0)
        b_weight = tl.load(p_weight2 + o_j[None, :] * H1 + o_h[:, None], mask=m_h[:, None] & m_j, other=0.0)
        b_jacobian = tl.dot(b_x, b_weight, b_jacobian, input_precision=PRECISION)
    p_v_ell_c += i_tile.to(tl.int64) * COLUMNS * SLOTS + o_first
    b_factor = tl.load(
        p_v_ell_c + tl.arange(0, COLUMNS).to(tl.int64) * SLOTS + o_r[:, None], mask=m_j[None, :], other=0.0
    )
    p_v_jacobian += (i_dim.to(tl.int64) * SLOTS + o_first) * H2
    tl.store(p_v_jacobian + o_r[:, None] * H2 + o_j, 2.0 * b_factor * b_jacobian, mask=m_j[None, :])


@triton.jit
def jacobian_backward(
    p_weight1, p_weight2, p_slot_row, p_block_k, p_d1, p_v_jacobian, p_v_d1, p_weight1_parts,
    first, dims, D, H1, H2, SLOTS, WEIGHTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """B_d = J̄_d W2: v_d1 (P, H1) += B_d ∘ W1[:, d] for ``dims`` d from ``first``.

    With WEIGHTS weight1_parts (blocks, H1, D): Σ_n B_d ∘ d1.
    """
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_weight2 += b_k * H2 * H1
    p_v_d1 += o_first * H1
    m_row = tl.load(p_slot_row + o_first + o_r) >= 0
    o_h = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_h = o_h < H1
    m_rh = m_row[:, None] & m_h
    o_rows = o_r[:, None] * H1 + o_h
    if WEIGHTS:
        b_d1 = load_rows(p_d1, o_first, o_r, m_row, o_h, m_h, H1)
    b_v_d1 = tl.load(p_v_d1 + o_rows, mask=m_rh, other=0.0)
    for i_dim in range(dims):
        p_in = p_v_jacobian + tl.cast(i_dim, tl.int64) * SLOTS * H2
        b_product = tl.zeros((ROWS, COLUMNS), tl.float32)
        for j in range(0, H2, DEPTH):
            o_j = j + tl.arange(0, DEPTH)
            m_j = o_j < H2
            b_v_jacobian = load_rows(p_in, o_first, o_r, m_row, o_j, m_j, H2)
            b_weight = tl.load(p_weight2 + o_j[:, None] * H1 + o_h, mask=m_j[:, None] & m_h, other=0.0)
            b_product = tl.dot(b_v_jacobian, b_weight, b_product, input_precision=PRECISION)
        b_v_d1 += b_product * tl.load(p_weight1 + o_h * D + first + i_dim, mask=m_h, other=0.0)
        if WEIGHTS:
            o_part = (i_block.to(tl.int64) * H1 + o_h) * D + first + i_dim
            tl.store(p_weight1_parts + o_part, tl.sum(b_product * b_d1, 0), mask=m_h)
    tl.store(p_v_d1 + o_rows, b_v_d1, mask=m_rh)


@triton.jit
def jacobian_weight2(
    p_weight1, p_slot_row, p_first_block, p_d1, p_v_jacobian, p_parts, first, dims, D, H1, H2, SLOTS,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """parts (chunks, K, H2, H1) of v_weight2 += Σ_d Σ_n J̄_d (d1 ∘ W1[:, d])ᵀ for ``dims`` d from ``first``.

    Grid as in weight_gradients.py.
    """
    i_pair, i_chunk, i_k = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    num_tiles = tl.cdiv(H1, COLUMNS)
    p_weight1 += i_k * H1 * D
    p_parts += (i_chunk * tl.num_programs(2) + i_k) * H2 * H1
    o_r = tl.arange(0, DEPTH)
    o_j = i_pair // num_tiles * COLUMNS + tl.arange(0, COLUMNS)
    o_h = i_pair % num_tiles * COLUMNS + tl.arange(0, COLUMNS)
    m_j = o_j < H2
    m_h = o_h < H1
    o_out = o_j[:, None] * H1 + o_h
    b_sum = tl.load(p_parts + o_out, mask=m_j[:, None] & m_h, other=0.0)
    first_block, last_block = chunk_of_segment(p_first_block, i_k, i_chunk, tl.num_programs(1))
    for i_dim in range(dims):
        p_in = p_v_jacobian + tl.cast(i_dim, tl.int64) * SLOTS * H2
        b_product = tl.zeros((COLUMNS, COLUMNS), tl.float32)
        for o_first in range(first_block * ROWS, last_block * ROWS, DEPTH):
            m_row = tl.load(p_slot_row + o_first + o_r) >= 0
            b_d1 = load_rows(p_d1, o_first, o_r, m_row, o_h, m_h, H1)
            b_v_jacobian = load_rows(p_in, o_first, o_r, m_row, o_j, m_j, H2)
            b_product = tl.dot(tl.trans(b_v_jacobian), b_d1, b_product, input_precision=PRECISION)
        b_sum += b_product * tl.load(p_weight1 + o_h * D + first + i_dim, mask=m_h, other=0.0)
    tl.store(p_parts + o_out, b_sum, mask=m_j[:, None] & m_h)
