#define SWIN_FAST_ISA avx2
#define SWIN_FAST_VECTOR_BYTES 32
#include "gelu_kernel.h"

namespace swin_fast {
GeluKernel gelu_avx2() { return avx2::gelu; }
}  // namespace swin_fast
