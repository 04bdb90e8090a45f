// For any processor: 16-byte vectors are what every 64-bit machine has, and the compiler splits them
// elsewhere.
#include "cpu/dispatch.h"

#define FFRL_SIMD portable
#define FFRL_VECTOR_BYTES 16
#define FFRL_TILE_ROWS 6
#include "cpu/kernels.h"
