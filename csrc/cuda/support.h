// Which calls the CUDA kernels take, and why not the others, in words.
#pragma once

#include <string>

#include "device.h"

namespace swin_fast {

// What decides it.
struct CallShape {
  Mode mode;
  int64_t batch, heads, head_dim;
  Geometry geometry;
};

// Whether the library holds code for GPUs of this compute capability.
bool has_code_for(int major, int minor);

LaunchPlan plan_of(const CallShape& shape, bool backward, const DeviceLimits& limits);

// Empty where the kernels take the call, else what follows "because".
std::string why_not(const CallShape& shape, const DeviceFacts& device);

}  // namespace swin_fast
