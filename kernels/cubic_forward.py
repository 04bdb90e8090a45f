"""Equations (8) to (10): the Gram matrix, and S and e from a product whose left operand is made on the fly."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def matmul(
    p_a, p_b, p_out, num_rows, num_columns, num_terms, stride_ak, stride_ai, stride_al, stride_bk, stride_bl, stride_bj,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out (K, I, J) = a (K, I, L) b (K, L, J), the operands with any strides."""
    i_tile, j_tile, i_k = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_i = i_tile * ROWS + tl.arange(0, ROWS)
    o_j = j_tile * COLUMNS + tl.arange(0, COLUMNS)
    b_out = tl.zeros((ROWS, COLUMNS), tl.float32)
    for term in range(0, num_terms, DEPTH):
        o_l = term + tl.arange(0, DEPTH)
        b_a = tl.load(
            p_a + i_k * stride_ak + o_i[:, None] * stride_ai + o_l * stride_al,
            mask=(o_i < num_rows)[:, None] & (o_l < num_terms), other=0.0,
        )  # fmt: skip
        b_b = tl.load(
            p_b + i_k * stride_bk + o_l[:, None] * stride_bl + o_j * stride_bj,
            mask=(o_l < num_terms)[:, None] & (o_j < num_columns), other=0.0,
        )  # fmt: skip
        b_out = tl.dot(b_a, b_b, b_out, input_precision=PRECISION)
    tl.store(
        p_out + (i_k * num_rows + o_i[:, None]) * num_columns + o_j,
        b_out,
        mask=(o_i < num_rows)[:, None] & (o_j < num_columns),
    )


@triton.jit
def gram_forward(
    p_weight2, p_gram, p_block_k, p_d1, p_c, p_squares, p_columns, H1, H2, STRIDE, SLOTS,
    COLUMN_SUMS: tl.constexpr, UNITS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(9), (10): y = (d1 ∘ W2[j]) G in a tile of columns, for UNITS units j of one chunk at a time; S_j and e in part.

    Rows (j, n) of the left operand, d1 ∘ W2[j], are made in registers. d1 (P, STRIDE) and G (K, H1, STRIDE) are padded
    with zeros to a multiple of 16, so that four numbers are one load. Grid (blocks, tiles, chunks). squares (tiles, H2,
    P): Σ over the tile of x y. columns (chunks, P, H1): Σ over the chunk of c W2 y, where asked for; it stays in
    registers until the chunk is done. The product is never written.
    """
    i_block, i_tile, i_chunk, num_chunks = tl.program_id(0), tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    o_r = tl.arange(0, ROWS)
    o_u = tl.arange(0, UNITS)
    o_first = i_block.to(tl.int64) * ROWS
    o_slot = o_first + o_r
    b_k = tl.load(p_block_k + i_block)
    p_weight2 += b_k * H2 * H1
    p_gram += b_k * H1 * STRIDE
    p_d1 += o_first * STRIDE
    o_p = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_p = o_p < STRIDE
    b_d1_p = tl.load(p_d1 + o_r[:, None] * STRIDE + o_p, mask=m_p[None, :], other=0.0)
    b_e = tl.zeros((ROWS, COLUMNS), tl.float32)
    last = H2 * (i_chunk + 1) // num_chunks
    for j in range(H2 * i_chunk // num_chunks, last, UNITS):
        o_j = j + o_u
        m_j = o_j < last
        b_y = tl.zeros((UNITS * ROWS, COLUMNS), tl.float32)
        for h in range(0, H1, DEPTH):
            o_h = h + tl.arange(0, DEPTH)
            b_d1 = tl.load(p_d1 + o_r[:, None] * STRIDE + o_h, mask=(o_h < STRIDE)[None, :], other=0.0)
            b_weight = tl.load(p_weight2 + o_j[:, None] * H1 + o_h, mask=m_j[:, None] & (o_h < H1), other=0.0)
            b_x = tl.reshape(b_weight[:, None, :] * b_d1[None, :, :], (UNITS * ROWS, DEPTH))
            b_gram = tl.load(p_gram + o_h[:, None] * STRIDE + o_p, mask=(o_h < H1)[:, None] & m_p, other=0.0)
            b_y = tl.dot(b_x, b_gram, b_y, input_precision=PRECISION)
        b_weight_p = tl.load(p_weight2 + o_j[:, None] * H1 + o_p, mask=m_j[:, None] & (o_p < H1), other=0.0)
        b_weight_y = tl.reshape(b_y, (UNITS, ROWS, COLUMNS)) * b_weight_p[:, None, :]
        o_jslot = o_j.to(tl.int64)[:, None] * SLOTS + o_slot
        p_s = p_squares + i_tile.to(tl.int64) * H2 * SLOTS + o_jslot
        tl.store(p_s, tl.sum(b_d1_p[None, :, :] * b_weight_y, 2), mask=m_j[:, None])
        if COLUMN_SUMS:
            b_c = tl.load(p_c + o_jslot, mask=m_j[:, None], other=0.0)
            b_e += tl.sum(b_c[:, :, None] * b_weight_y, 0)
    if COLUMN_SUMS:
        p_columns += (i_chunk.to(tl.int64) * SLOTS + o_first) * H1
        tl.store(p_columns + o_r[:, None] * H1 + o_p, b_e, mask=(o_p < H1)[None, :])


@triton.jit
def jacobian_forward(
    p_weight1, p_weight2, p_block_k, p_d1, p_squares, D, H1, H2, SLOTS,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(10) from the Jacobian: S_j = Σ_d J_jd², J_d = W2 (d1 ∘ W1[:, d]), for a tile of units; squares (1, H2, P)."""
    i_block, i_tile = tl.program_id(0), tl.program_id(1)
    o_r = tl.arange(0, ROWS)
    o_first = i_block.to(tl.int64) * ROWS
    b_k = tl.load(p_block_k + i_block)
    p_weight1 += b_k * H1 * D
    p_weight2 += b_k * H2 * H1
    p_d1 += o_first * H1
    o_j = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    m_j = o_j < H2
    b_s = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(D):
        b_jacobian = tl.zeros((ROWS, COLUMNS), tl.float32)
        for h in range(0, H1, DEPTH):
            o_h = h + tl.arange(0, DEPTH)
            m_h = o_h < H1
            b_d1 = tl.load(p_d1 + o_r[:, None] * H1 + o_h, mask=m_h[None, :], other=0.0)
            b_x = b_d1 * tl.load(p_weight1 + o_h * D + d, mask=m_h, other=0.0)
            b_weight = tl.load(p_weight2 + o_j[None, :] * H1 + o_h[:, None], mask=m_h[:, None] & m_j, other=0.0)
            b_jacobian = tl.dot(b_x, b_weight, b_jacobian, input_precision=PRECISION)
        b_s += b_jacobian * b_jacobian
    p_squares += i_tile.to(tl.int64) * COLUMNS * SLOTS + o_first
    tl.store(p_squares + tl.arange(0, COLUMNS).to(tl.int64) * SLOTS + o_r[:, None], b_s, mask=m_j[None, :])
