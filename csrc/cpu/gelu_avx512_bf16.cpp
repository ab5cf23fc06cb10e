#define SWIN_FAST_ISA avx512_bf16
#define SWIN_FAST_VECTOR_BYTES 64
#include "gelu_kernel.h"

namespace swin_fast {
GeluKernel gelu_avx512_bf16() { return avx512_bf16::gelu; }
}  // namespace swin_fast
