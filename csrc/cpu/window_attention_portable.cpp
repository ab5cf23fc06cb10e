#define SWIN_FAST_ISA portable
#define SWIN_FAST_VECTOR_BYTES 16
#include "window_attention_kernel.h"

namespace swin_fast {
WindowAttentionKernels portable_kernels() { return portable::kernels(); }
}  // namespace swin_fast
