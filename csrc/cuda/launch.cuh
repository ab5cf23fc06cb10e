// One launch of a kernel, and the choice of the compiled instance by head_dim and tokens.
#pragma once

#include "window_attention_launch.h"

namespace swin_fast {

template <class Kernel, class... Arguments>
cudaError_t launch(Kernel kernel, int64_t blocks, unsigned threads, size_t shared_bytes, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (shared_bytes > (48 << 10)) {  // more than every device gives unasked
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Calls Instances<kMode, kHeadDim, kOneChunk>::launch(p, ...).
template <template <Mode, int, bool> class Instances, Mode kMode, class... Arguments>
cudaError_t launch_instance(const CudaParams& p, const Arguments&... arguments) {
  const bool one = p.tokens <= kChunk;
  switch (head_dim_tile(p.head_dim)) {
    case 16:
      return one ? Instances<kMode, 16, true>::launch(p, arguments...)
                 : Instances<kMode, 16, false>::launch(p, arguments...);
    case 32:
      return one ? Instances<kMode, 32, true>::launch(p, arguments...)
                 : Instances<kMode, 32, false>::launch(p, arguments...);
    default:
      return one ? Instances<kMode, 64, true>::launch(p, arguments...)
                 : Instances<kMode, 64, false>::launch(p, arguments...);
  }
}

}  // namespace swin_fast
