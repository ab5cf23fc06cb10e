// The backward's host side; a unit that includes this instantiates launch_backward_mode for its element types.
#pragma once

#include "launch.cuh"
#include "window_attention_backward.cuh"
#include "window_attention_reduce.cuh"

namespace swin_fast {

inline cudaError_t launch_reductions(Mode mode, const CudaParams& p, const LaunchPlan& plan, cudaStream_t stream) {
  const int64_t pairs = int64_t(p.tokens) * p.tokens * p.heads;
  const Slices slices = {plan.blocks / p.heads, partial_sums(p)};
  if (p.grad_bias && !folds_bias(p)) {
    cudaError_t error = launch(sum_bias_blocks, ceil_div(pairs, kReduceThreads), kReduceThreads, 0, stream, p, slices);
    if (error != cudaSuccess) return error;
    const int64_t warps = int64_t(p.bias_rows) * p.heads;
    error = launch(gather_bias, ceil_div(warps, kReduceThreads / 32), kReduceThreads, 0, stream, p, slices);
    if (error != cudaSuccess) return error;
  }
  const int64_t sums = (p.grad_bias && folds_bias(p) ? int64_t(p.bias_rows) * p.heads : 0) +
                       (p.grad_pad ? int64_t(3) * p.heads * p.head_dim : 0) + (p.grad_logit_scale ? p.heads : 0);
  if (sums == 0) return cudaSuccess;
  const DType dtype = mode == Mode::kBFloat16  ? DType::kBFloat16
                      : mode == Mode::kFloat16 ? DType::kFloat16
                                               : DType::kFloat32;
  return launch(sum_blocks, ceil_div(sums, kReduceThreads), kReduceThreads, 0, stream, p, slices, dtype);
}

template <Mode kMode, int kHeadDim, bool kOneChunk>
struct BackwardInstance {
  static cudaError_t launch(const CudaParams& p, const DeviceLimits& device, cudaStream_t stream) {
    const LaunchPlan plan = backward_plan(kMode, p, device);
    if (!plan.fits) return cudaErrorInvalidConfiguration;
    if (plan.blocks == 0) return cudaSuccess;
    const Schedule schedule = make_schedule<typename Element<kMode>::Storage>(p, plan, true);
    const cudaError_t error = swin_fast::launch(window_attention_backward<kMode, kHeadDim, kOneChunk>, plan.blocks,
                                                plan.threads, plan.shared_bytes, stream, p, schedule);
    return error == cudaSuccess ? launch_reductions(kMode, p, plan, stream) : error;
  }
};

template <Mode kMode>
cudaError_t launch_backward_mode(const CudaParams& p, const DeviceLimits& device, cudaStream_t stream) {
  return launch_instance<BackwardInstance, kMode>(p, device, stream);
}

}  // namespace swin_fast
