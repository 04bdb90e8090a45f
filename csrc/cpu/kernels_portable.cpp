// For any processor: 16-byte vectors are what every 64-bit machine has, and the compiler splits them
// elsewhere.
#include "cpu/dispatch.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define FFRL_FMA_FLOAT(a, b, c) vfmaq_f32(c, a, b)
#define FFRL_FMA_DOUBLE(a, b, c) vfmaq_f64(c, a, b)
#endif

#define FFRL_SIMD portable
#define FFRL_VECTOR_BYTES 16
#define FFRL_TILE_ROWS 6
#include "cpu/kernels.h"
