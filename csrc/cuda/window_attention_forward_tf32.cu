#include "window_attention_forward_launch.cuh"

namespace swin_fast {

template cudaError_t launch_forward_mode<Mode::kTf32>(const CudaParams&, const DeviceLimits&, cudaStream_t);

}  // namespace swin_fast
