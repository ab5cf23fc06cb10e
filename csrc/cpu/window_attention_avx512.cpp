#define SWIN_FAST_ISA avx512
#define SWIN_FAST_VECTOR_BYTES 64
#include "window_attention_kernel.h"

namespace swin_fast {
WindowAttentionKernels avx512_kernels() { return avx512::kernels(); }
}  // namespace swin_fast
