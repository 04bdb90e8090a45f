"""Triton kernels of the potential op, installed as ``ffrl.kernels``; they import only torch and triton.

Equation numbers are those of docs/derivation.md. In the kernels p_ is a pointer, b_ a block of values, m_ a mask, o_
offsets and i_ the index of a program; v_X is the cotangent of X. docs/kernels.md tells how they fit together.
"""
