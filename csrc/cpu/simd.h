// Vectors of numbers by the compiler's vector extensions (GCC, Clang), and tanh on them.
// Included by impl headers inside a namespace of one instruction set: no include of its own, no #pragma once.

template <class T, int kWidth>
struct Simd {
    using Scalar = T;
    static constexpr int width = kWidth;
    typedef T Vec __attribute__((vector_size(kWidth * sizeof(T))));
    typedef Vec Memory __attribute__((may_alias));  // a vector read where single numbers were written
};

template <class S>
FFRL_INLINE typename S::Vec load(const typename S::Scalar* p) {
    return *reinterpret_cast<const typename S::Memory*>(p);
}

template <class S>
FFRL_INLINE void store(typename S::Scalar* p, typename S::Vec v) {
    *reinterpret_cast<typename S::Memory*>(p) = v;
}

// a b + c, rounded once where the target can. Written out, and contraction by the compiler turned off: its
// choice of where to fuse can differ between two copies of one expression, and so the bits of a row between
// two places in a block.
template <class V>
FFRL_INLINE V fma(V a, V b, V c) {
#if defined(FFRL_FMA_FLOAT)
    if constexpr (sizeof(a[0]) == sizeof(float))
        return V(FFRL_FMA_FLOAT(a, b, c));
    else
        return V(FFRL_FMA_DOUBLE(a, b, c));
#else
    return a * b + c;
#endif
}

template <class V, class T>
FFRL_INLINE V fma(T a, V b, V c) {
    return fma<V>(a - V{}, b, c);  // x - 0 is x, also for -0
}

// Sum of the entries in a fixed tree: halves first.
template <class T, int kWidth>
FFRL_INLINE T horizontal_sum(typename Simd<T, kWidth>::Vec v) {
    if constexpr (kWidth == 2) {
        return v[0] + v[1];
    } else {
        struct Halves {
            typename Simd<T, kWidth / 2>::Vec low, high;
        };
        const Halves halves = __builtin_bit_cast(Halves, v);
        return horizontal_sum<T, kWidth / 2>(halves.low + halves.high);
    }
}

template <class T>
struct FloatTraits;

template <>
struct FloatTraits<float> {
    using Int = int32_t;
    static constexpr int mantissa_bits = 23, exponent_bias = 127, taylor_degree = 7;
    static constexpr float round_magic = 12582912.0f;      // 1.5 * 2^23
    static constexpr float ln2_high = 0.693145751953125f;  // 14 bits: n ln2_high is exact
    static constexpr float ln2_low = 1.428606765330187e-06f;
    static constexpr float saturated = -20.0f;  // 1 - e^-20 rounds to 1
};

template <>
struct FloatTraits<double> {
    using Int = int64_t;
    static constexpr int mantissa_bits = 52, exponent_bias = 1023, taylor_degree = 13;
    static constexpr double round_magic = 6755399441055744.0;    // 1.5 * 2^52
    static constexpr double ln2_high = 0.693147180369123816490;  // 33 bits
    static constexpr double ln2_low = 1.90821492927058770002e-10;
    static constexpr double saturated = -40.0;
};

// e^y for y <= 0, to about one unit in the last place; what lies below `saturated` is taken to be there. NaN
// stays.
template <class S>
FFRL_INLINE typename S::Vec exp_nonpositive(typename S::Vec y) {
    using T = typename S::Scalar;
    using F = FloatTraits<T>;
    typedef typename F::Int IntVec __attribute__((vector_size(S::width * sizeof(T))));
    using V = typename S::Vec;
    y = y < F::saturated ? V{} + F::saturated : y;
    const V shifted = y * T(1.4426950408889634074) + F::round_magic;  // the low bits hold round(y / ln 2)
    const V n = shifted - F::round_magic;
    const V r = (y - n * F::ln2_high) - n * F::ln2_low;
    V series = V{} + T(1);  // Taylor: 1 + r (1 + r/2 (1 + r/3 (...)))
#pragma GCC unroll 16
    for (int i = F::taylor_degree; i >= 1; --i) series = fma<V>(series, r * (T(1) / T(i)), V{} + T(1));
    const IntVec n_bits =
        __builtin_bit_cast(IntVec, shifted) - __builtin_bit_cast(IntVec, V{} + F::round_magic);
    return series * __builtin_bit_cast(V, (n_bits + F::exponent_bias) << F::mantissa_bits);
}

// Odd minimax approximation of tanh for |x| < 0.625 (the coefficients are those of the Cephes library).
template <class V>
FFRL_INLINE V tanh_small(V x, float) {
    const V s = x * x;
    V p = V{} + -5.70498872745e-3f;
    for (const float coefficient :
         {2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f})
        p = fma<V>(p, s, V{} + coefficient);
    return fma<V>(p * s, x, x);
}

template <class V>
FFRL_INLINE V tanh_small(V x, double) {
    const V s = x * x;
    const V p = (s * -9.64399179425052238628e-1 + -9.92877231001918586564e1) * s + -1.61468768441708447952e3;
    const V q =
        ((s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3) * s + 4.84406305325125486048e3;
    return x * s * (p / q) + x;
}

// tanh x: ±1 where saturated, NaN where NaN, never more than 1 in size.
template <class S>
FFRL_INLINE typename S::Vec tanh(typename S::Vec x) {
    using T = typename S::Scalar;
    using V = typename S::Vec;
    const V size = x < T(0) ? -x : x;
    const V t = exp_nonpositive<S>(T(-2) * size);
    const V large = (T(1) - t) / (T(1) + t);
    return size < T(0.625) ? tanh_small(x, T()) : (x < T(0) ? -large : large);
}
