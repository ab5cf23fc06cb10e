// Which instruction set's kernels run: the best this processor has, or the one SWIN_FAST_CPU_CAPABILITY names.
#pragma once

#include "../common/params.h"

namespace swin_fast {

WindowAttentionKernels portable_kernels();
WindowAttentionKernels avx2_kernels();
WindowAttentionKernels avx512_kernels();
WindowAttentionKernels avx512_bf16_kernels();

struct Capability {
  const char* name;
  bool built, supported;
  WindowAttentionKernels kernels;
};

// Throws where the environment names an unknown, missing or unsupported one.
const Capability& cpu_capability();

}  // namespace swin_fast
