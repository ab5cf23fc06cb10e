// One instance of the kernels in one direction, for the harness: EMULATED_MODE, _HEAD_DIM, _ONE_CHUNK, _BACKWARD say
// which.
#if EMULATED_BACKWARD
#include "csrc/cuda/window_attention_backward_launch.cuh"
#else
#include "csrc/cuda/window_attention_forward_launch.cuh"
#endif

namespace swin_fast {
namespace {

constexpr Mode kMode = Mode::EMULATED_MODE;
#if EMULATED_BACKWARD
using Instance = BackwardInstance<kMode, EMULATED_HEAD_DIM, EMULATED_ONE_CHUNK>;
#else
using Instance = ForwardInstance<kMode, EMULATED_HEAD_DIM, EMULATED_ONE_CHUNK>;
#endif

}  // namespace

extern "C" {
int emulated_launch(const CudaParams* params, const DeviceLimits* limits) {
  return Instance::launch(*params, *limits, nullptr);
}

// Bytes of workspace, or -1 where the kernels do not fit into a multiprocessor.
int64_t emulated_workspace(const CudaParams* params, const DeviceLimits* limits) {
  const auto plan = EMULATED_BACKWARD ? backward_plan : forward_plan;
  const LaunchPlan p = plan(kMode, *params, *limits);
  return p.fits ? int64_t(p.workspace_bytes) : -1;
}

size_t emulated_params_bytes() { return sizeof(CudaParams); }
}
}  // namespace swin_fast
