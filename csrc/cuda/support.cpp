#include "support.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "../common/arguments.h"

namespace swin_fast {
namespace {

std::string dotted(int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); }

}  // namespace

// SWIN_FAST_CUDA_ARCHITECTURES is the build's list: "sm_90a" is for 9.0 alone, "sm_86" for 8.6 and later 8.x,
// "compute_90" is PTX, which the driver compiles for 9.0 and anything newer.
bool has_code_for(int major, int minor) {
  const std::string list = SWIN_FAST_CUDA_ARCHITECTURES;
  const int wanted = major * 10 + minor;
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string name = list.substr(begin, end - begin);
    const std::string number = name.substr(name.find('_') + 1);
    const int built = std::atoi(number.c_str());
    const char letter = number.back();
    begin = end + 1;
    const bool same_family = wanted >= built && major == built / 10;
    const bool ptx = name[0] == 'c' && letter != 'f';
    if (letter == 'a' ? wanted == built : ptx ? wanted >= built : same_family) return true;
  }
  return false;
}

LaunchPlan plan_of(const CallShape& shape, bool backward, const DeviceLimits& limits) {
  CudaParams p = {};
  p.geometry = shape.geometry, p.batch = shape.batch, p.windows = product(shape.geometry.count);
  p.tokens = int32_t(product(shape.geometry.window));
  p.heads = int32_t(shape.heads), p.head_dim = int32_t(shape.head_dim);
  return backward ? backward_plan(shape.mode, p, limits) : forward_plan(shape.mode, p, limits);
}

std::string why_not(const CallShape& shape, const DeviceFacts& device) {
  if (device.driver < CUDART_VERSION / 1000 * 1000)
    return "the CUDA library was built with CUDA " + dotted(CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10) +
           ", and the driver knows " + dotted(device.driver / 1000, device.driver % 1000 / 10) + " at most";
  if (device.major < 8)
    return "the CUDA kernels need compute capability 8.0, and the GPU has " + dotted(device.major, device.minor);
  if (!device.has_code)
    return "the CUDA library was built for " SWIN_FAST_CUDA_ARCHITECTURES ", and the GPU has compute capability " +
           dotted(device.major, device.minor);
  const int64_t tokens = product(shape.geometry.window);
  if (tokens > kMaxTokens)
    return "the CUDA kernels take windows of at most " + std::to_string(kMaxTokens) + " tokens, and this one has " +
           std::to_string(tokens);
  if (shape.head_dim > kMaxHeadDim)
    return "the CUDA kernels take a head_dim of at most " + std::to_string(kMaxHeadDim) + ", and this one is " +
           std::to_string(shape.head_dim);
  if (shape.batch * product(shape.geometry.count) > INT32_MAX / shape.heads)
    return "the map has 2^31 pairs of window and head or more";
  for (const bool backward : {false, true}) {
    const LaunchPlan plan = plan_of(shape, backward, device.limits);
    if (!plan.fits)
      return std::string("the ") + (backward ? "backward" : "forward") + " would need " +
             std::to_string(plan.shared_bytes) + " bytes of shared memory in a block, and this GPU has " +
             std::to_string(device.limits.shared_per_block);
  }
  return "";
}

}  // namespace swin_fast
