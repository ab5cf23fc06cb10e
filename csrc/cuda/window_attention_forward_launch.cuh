// The forward's host side; a unit that includes this instantiates launch_forward_mode for its element types.
#pragma once

#include "launch.cuh"
#include "window_attention_forward.cuh"

namespace swin_fast {

template <Mode kMode, int kHeadDim, bool kOneChunk>
struct ForwardInstance {
  static cudaError_t launch(const CudaParams& p, const DeviceLimits& device, cudaStream_t stream) {
    const LaunchPlan plan = forward_plan(kMode, p, device);
    if (!plan.fits) return cudaErrorInvalidConfiguration;
    if (plan.blocks == 0) return cudaSuccess;
    const Schedule schedule = make_schedule<typename Element<kMode>::Storage>(p, plan, false);
    return swin_fast::launch(window_attention_forward<kMode, kHeadDim, kOneChunk>, plan.blocks, plan.threads,
                             plan.shared_bytes, stream, p, schedule);
  }
};

template <Mode kMode>
cudaError_t launch_forward_mode(const CudaParams& p, const DeviceLimits& device, cudaStream_t stream) {
  return launch_instance<ForwardInstance, kMode>(p, device, stream);
}

}  // namespace swin_fast
