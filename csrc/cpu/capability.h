// Which instruction set's kernels run: the best this processor has, or the one SWIN_FAST_CPU_CAPABILITY names.
#pragma once

#include "../common/params.h"

namespace swin_fast {

WindowAttentionKernels portable_kernels();
WindowAttentionKernels avx2_kernels();
WindowAttentionKernels avx512_kernels();
WindowAttentionKernels avx512_bf16_kernels();
GeluKernel gelu_portable();
GeluKernel gelu_avx2();
GeluKernel gelu_avx512();
GeluKernel gelu_avx512_bf16();

struct Capability {
  const char* name;
  bool built, supported;
  WindowAttentionKernels kernels;
  GeluKernel gelu;
};

// Throws where the environment names an unknown, missing or unsupported one.
const Capability& cpu_capability();

}  // namespace swin_fast
