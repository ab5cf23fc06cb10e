// The only file that names torch's CUDA functions; tests link another in its place and need no GPU.
#include "device.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>

#include <array>
#include <mutex>

#include "support.h"

namespace swin_fast {
namespace {

constexpr int kMaxDevices = 64;  // torch's own limit

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, index));
  return value;
}

DeviceFacts ask(int index) {
  DeviceFacts facts = {};
  STD_CUDA_CHECK(cudaDriverGetVersion(&facts.driver));
  if (facts.driver < CUDART_VERSION / 1000 * 1000) return facts;  // the driver cannot answer the rest
  facts.major = attribute(cudaDevAttrComputeCapabilityMajor, index);
  facts.minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
  facts.has_code = has_code_for(facts.major, facts.minor);
  facts.limits.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
  facts.limits.shared_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  facts.limits.shared_per_multiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, index);
  return facts;
}

}  // namespace

const DeviceFacts& device_facts(int index) {
  static std::array<DeviceFacts, kMaxDevices> facts;
  static std::array<std::once_flag, kMaxDevices> asked;
  STD_TORCH_CHECK(index >= 0 && index < kMaxDevices, "there is no CUDA device ", index);
  std::call_once(asked[index], [&] { facts[index] = ask(index); });
  return facts[index];
}

OnDeviceOf::OnDeviceOf(const Tensor& t) : index_(t.get_device()) {
  DeviceGuardHandle guard = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_create_device_guard(index_, &guard));
  guard_ = guard;
}

OnDeviceOf::~OnDeviceOf() { aoti_torch_delete_device_guard(static_cast<DeviceGuardHandle>(guard_)); }

cudaStream_t OnDeviceOf::stream() const {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launch(cudaError_t result) {
  STD_CUDA_CHECK(result);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace swin_fast
