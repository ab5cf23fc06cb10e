#define SWIN_FAST_ISA avx512
#define SWIN_FAST_VECTOR_BYTES 64
#include "gelu_kernel.h"

namespace swin_fast {
GeluKernel gelu_avx512() { return avx512::gelu; }
}  // namespace swin_fast
