#define SWIN_FAST_ISA portable
#define SWIN_FAST_VECTOR_BYTES 16
#include "gelu_kernel.h"

namespace swin_fast {
GeluKernel gelu_portable() { return portable::gelu; }
}  // namespace swin_fast
