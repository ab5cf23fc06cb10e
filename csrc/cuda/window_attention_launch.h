// What the boundary calls. Definitions: window_attention_{forward,backward}_launch.cuh, compiled once per element type
// and direction.
#pragma once

#include <cuda_runtime.h>

#include "tile_size.h"

namespace swin_fast {

// Nothing is launched for a batch without windows. cudaErrorInvalidConfiguration where the plan does not fit.
template <Mode kMode>
cudaError_t launch_forward_mode(const CudaParams&, const DeviceLimits&, cudaStream_t);
template <Mode kMode>
cudaError_t launch_backward_mode(const CudaParams&, const DeviceLimits&, cudaStream_t);

// Each is compiled in a unit of its own.
extern template cudaError_t launch_forward_mode<Mode::kFloat32>(const CudaParams&, const DeviceLimits&, cudaStream_t);
extern template cudaError_t launch_forward_mode<Mode::kTf32>(const CudaParams&, const DeviceLimits&, cudaStream_t);
extern template cudaError_t launch_forward_mode<Mode::kBFloat16>(const CudaParams&, const DeviceLimits&, cudaStream_t);
extern template cudaError_t launch_forward_mode<Mode::kFloat16>(const CudaParams&, const DeviceLimits&, cudaStream_t);
extern template cudaError_t launch_backward_mode<Mode::kFloat32>(const CudaParams&, const DeviceLimits&, cudaStream_t);
extern template cudaError_t launch_backward_mode<Mode::kTf32>(const CudaParams&, const DeviceLimits&, cudaStream_t);
extern template cudaError_t launch_backward_mode<Mode::kBFloat16>(const CudaParams&, const DeviceLimits&, cudaStream_t);
extern template cudaError_t launch_backward_mode<Mode::kFloat16>(const CudaParams&, const DeviceLimits&, cudaStream_t);

inline cudaError_t launch_forward(Mode mode, const CudaParams& p, const DeviceLimits& device, cudaStream_t stream) {
  switch (mode) {
    case Mode::kFloat32:
      return launch_forward_mode<Mode::kFloat32>(p, device, stream);
    case Mode::kTf32:
      return launch_forward_mode<Mode::kTf32>(p, device, stream);
    case Mode::kBFloat16:
      return launch_forward_mode<Mode::kBFloat16>(p, device, stream);
    case Mode::kFloat16:
      return launch_forward_mode<Mode::kFloat16>(p, device, stream);
  }
  return cudaErrorInvalidValue;
}

inline cudaError_t launch_backward(Mode mode, const CudaParams& p, const DeviceLimits& device, cudaStream_t stream) {
  switch (mode) {
    case Mode::kFloat32:
      return launch_backward_mode<Mode::kFloat32>(p, device, stream);
    case Mode::kTf32:
      return launch_backward_mode<Mode::kTf32>(p, device, stream);
    case Mode::kBFloat16:
      return launch_backward_mode<Mode::kBFloat16>(p, device, stream);
    case Mode::kFloat16:
      return launch_backward_mode<Mode::kFloat16>(p, device, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace swin_fast
