// What the boundary needs of a GPU beside the kernels: its limits, making it current, its stream, its errors.
#pragma once

#include <cuda_runtime.h>

#include "../common/stable.h"
#include "window_attention_launch.h"

namespace swin_fast {

struct DeviceFacts {
  int driver;  // the newest CUDA version that the driver knows, 13020 for 13.2
  int major, minor;
  bool has_code;  // the library was built for this GPU
  DeviceLimits limits;
};

const DeviceFacts& device_facts(int index);  // asked once per device

// Makes a tensor's device the current one while it lives.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& t);
  ~OnDeviceOf();
  OnDeviceOf(const OnDeviceOf&) = delete;
  OnDeviceOf& operator=(const OnDeviceOf&) = delete;
  cudaStream_t stream() const;  // torch's current one
  const DeviceFacts& facts() const { return device_facts(index_); }

 private:
  int index_;
  void* guard_ = nullptr;
};

// Throws with CUDA's words, as torch does after its own kernels.
void check_launch(cudaError_t result);

}  // namespace swin_fast
