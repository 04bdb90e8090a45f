// Which instruction set the CPU kernels use.
#pragma once

namespace ffrl::cpu {

// "avx512", "avx2" or "portable": the best this processor has, unless set_capability or FFRL_CPU_CAPABILITY
// chose.
const char* capability();

// Chooses one of those, or "auto". Returns false, and changes nothing, where it is not known or not usable
// here.
bool set_capability(const char* name);

}  // namespace ffrl::cpu
