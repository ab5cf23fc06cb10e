// Stands in for a GPU under csrc/cuda's boundary, which then runs on CPU tensors: a device with the limits that Python
// sets, no stream, and a launch that hands the kernels' parameters to a function of Python's, or does nothing.
#include "../../csrc/cuda/device.h"
#include "../../csrc/cuda/support.h"
#include "../../csrc/cuda/window_attention.h"

namespace swin_fast {
namespace {

using Launch = int (*)(int mode, int backward, const CudaParams*);
Launch on_launch = nullptr;
DeviceFacts facts = {CUDART_VERSION, 9, 0, true, {132, 227 << 10, 228 << 10}};
int devices_current = 0;

cudaError_t launched(Mode mode, bool backward, const CudaParams& p) {
  STD_TORCH_CHECK(devices_current == 1, "a launch needs its tensor's device to be current");
  return on_launch ? cudaError_t(on_launch(int(mode), backward, &p)) : cudaSuccess;
}

}  // namespace

const DeviceFacts& device_facts(int) { return facts; }

OnDeviceOf::OnDeviceOf(const Tensor& t) : index_(t.get_device()) { ++devices_current; }
OnDeviceOf::~OnDeviceOf() { --devices_current; }
cudaStream_t OnDeviceOf::stream() const { return nullptr; }

void check_launch(cudaError_t result) {
  STD_TORCH_CHECK(result == cudaSuccess, "the launch failed with error ", int(result));
}

template <Mode kMode>
cudaError_t launch_forward_mode(const CudaParams& p, const DeviceLimits&, cudaStream_t) {
  return launched(kMode, false, p);
}
template <Mode kMode>
cudaError_t launch_backward_mode(const CudaParams& p, const DeviceLimits&, cudaStream_t) {
  return launched(kMode, true, p);
}
#define STAND_IN_MODE(mode)                                                                                   \
  template cudaError_t launch_forward_mode<Mode::mode>(const CudaParams&, const DeviceLimits&, cudaStream_t); \
  template cudaError_t launch_backward_mode<Mode::mode>(const CudaParams&, const DeviceLimits&, cudaStream_t);
STAND_IN_MODE(kFloat32)
STAND_IN_MODE(kTf32)
STAND_IN_MODE(kBFloat16)
STAND_IN_MODE(kFloat16)

extern "C" {
size_t stand_in_params_bytes() { return sizeof(CudaParams); }
void stand_in_on_launch(Launch launch) { on_launch = launch; }
int64_t stand_in_mode(int64_t mode) { return set_cuda_mode(mode); }
void stand_in_device(int driver, int major, int minor, int multiprocessors, int per_block, int per_multiprocessor) {
  facts = {driver, major, minor, has_code_for(major, minor), {multiprocessors, per_block, per_multiprocessor}};
}
int64_t stand_in_workspace(int mode, const CudaParams* p) {
  return int64_t(backward_plan(Mode(mode), *p, facts.limits).workspace_bytes);
}
int stand_in_devices_current() { return devices_current; }
}

}  // namespace swin_fast

STABLE_TORCH_LIBRARY_IMPL(swin_fast, CPU, m) {
  m.impl("window_attention_stand_in", TORCH_BOX(&swin_fast::window_attention_cuda));
  m.impl("window_attention_backward_stand_in", TORCH_BOX(&swin_fast::window_attention_backward_cuda));
}
