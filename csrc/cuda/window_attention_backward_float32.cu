#include "window_attention_backward_launch.cuh"

namespace swin_fast {

template cudaError_t launch_backward_mode<Mode::kFloat32>(const CudaParams&, const DeviceLimits&, cudaStream_t);

}  // namespace swin_fast
