#define SWIN_FAST_ISA avx512_bf16
#define SWIN_FAST_VECTOR_BYTES 64
#include "window_attention_kernel.h"

namespace swin_fast {
WindowAttentionKernels avx512_bf16_kernels() { return avx512_bf16::kernels(); }
}  // namespace swin_fast
