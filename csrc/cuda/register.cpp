// The CUDA library's entries in torch's dispatcher. The schema of the op itself and of cuda_mode is in ops.py; the
// others answer questions of cuda_kernels.py without a GPU, about any.
#include "support.h"
#include "window_attention.h"

namespace swin_fast {
namespace {

// A device as the entries below take it; cuda_device makes one.
DeviceFacts facts_of(const Ints& d) {
  STD_TORCH_CHECK(d.size() == 6,
                  "a device is six numbers: driver, major, minor, multiprocessors, shared memory of a "
                  "block and of a multiprocessor");
  const int major = int(d[1]), minor = int(d[2]);
  return {int(d[0]), major, minor, has_code_for(major, minor), {int(d[3]), int(d[4]), int(d[5])}};
}

Ints cuda_device(int64_t index) {
  const DeviceFacts& d = device_facts(int(index));
  return {d.driver,
          d.major,
          d.minor,
          d.limits.multiprocessors,
          d.limits.shared_per_block,
          d.limits.shared_per_multiprocessor};
}

CallShape shape_of(int64_t mode, int64_t batch, const Ints& grid, const Ints& window, int64_t heads, int64_t head_dim) {
  STD_TORCH_CHECK(mode >= 0 && mode <= 3, "mode must be 0 (float32), 1 (TF32), 2 (bfloat16) or 3 (float16)");
  STD_TORCH_CHECK(heads > 0 && head_dim > 0, "heads and head_dim must be positive");
  return {Mode(mode), batch, heads, head_dim, geometry_of(grid, window, Ints(grid.size(), 0), false)};
}

std::string cuda_why_not(int64_t mode, int64_t batch, const Ints& grid, const Ints& window, int64_t heads,
                         int64_t head_dim, const Ints& device) {
  return why_not(shape_of(mode, batch, grid, window, heads, head_dim), facts_of(device));
}

// Threads of a block, its bytes of shared memory, blocks.
Ints cuda_plan(int64_t mode, int64_t batch, const Ints& grid, const Ints& window, int64_t heads, int64_t head_dim,
               bool backward, const Ints& device) {
  const CallShape shape = shape_of(mode, batch, grid, window, heads, head_dim);
  const LaunchPlan plan = plan_of(shape, backward, facts_of(device).limits);
  return {int64_t(plan.threads), int64_t(plan.shared_bytes), int64_t(plan.blocks)};
}

}  // namespace
}  // namespace swin_fast

STABLE_TORCH_LIBRARY_FRAGMENT(swin_fast, m) {
  m.def("cuda_device(int index) -> int[]");
  m.def("cuda_why_not(int mode, int batch, int[] grid, int[] window, int heads, int head_dim, int[] device) -> str");
  m.def(
      "cuda_plan(int mode, int batch, int[] grid, int[] window, int heads, int head_dim, bool backward, int[] device) "
      "-> int[]");
}

STABLE_TORCH_LIBRARY_IMPL(swin_fast, CUDA, m) {
  m.impl("window_attention", TORCH_BOX(&swin_fast::window_attention_cuda));
  m.impl("window_attention_backward", TORCH_BOX(&swin_fast::window_attention_backward_cuda));
}

STABLE_TORCH_LIBRARY_IMPL(swin_fast, CompositeExplicitAutograd, m) {
  m.impl("cuda_mode", TORCH_BOX(&swin_fast::set_cuda_mode));
  m.impl("cuda_device", TORCH_BOX(&swin_fast::cuda_device));
  m.impl("cuda_why_not", TORCH_BOX(&swin_fast::cuda_why_not));
  m.impl("cuda_plan", TORCH_BOX(&swin_fast::cuda_plan));
}
