#define SWIN_FAST_ISA avx2
#define SWIN_FAST_VECTOR_BYTES 32
#include "window_attention_kernel.h"

namespace swin_fast {
WindowAttentionKernels avx2_kernels() { return avx2::kernels(); }
}  // namespace swin_fast
