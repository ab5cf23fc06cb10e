// CUDA C++ for g++: the words, types and functions of the language and of the runtime that the kernels use.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulation.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

namespace emulation {
template <Index3 (*of)(), unsigned Index3::* axis>
struct Coordinate {
  operator unsigned() const { return of().*axis; }
};
template <Index3 (*of)()>
struct Coordinates {
  Coordinate<of, &Index3::x> x;
  Coordinate<of, &Index3::y> y;
  Coordinate<of, &Index3::z> z;
};
}  // namespace emulation

constexpr emulation::Coordinates<emulation::thread_index> threadIdx;
constexpr emulation::Coordinates<emulation::block_index> blockIdx;
constexpr emulation::Coordinates<emulation::block_size> blockDim;
constexpr emulation::Coordinates<emulation::grid_size> gridDim;
constexpr int warpSize = 32;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define EMULATION_VECTORS(type, name)                              \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };         \
  struct alignas(4 * sizeof(type)) name##4 { type x, y, z, w; };   \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATION_VECTORS(int, int)
EMULATION_VECTORS(unsigned, uint)
EMULATION_VECTORS(float, float)
#undef EMULATION_VECTORS

using std::max;
using std::min;

// Barriers, votes and shuffles

inline void __syncthreads(emulation::Where where = emulation::here()) { emulation::barrier(0, 0, 0, where); }
inline int __syncthreads_count(int predicate, emulation::Where where = emulation::here()) {
  return emulation::barrier(0, 0, predicate != 0, where);
}
inline int __syncthreads_or(int predicate, emulation::Where where = emulation::here()) {
  return emulation::barrier(0, 0, predicate != 0, where) != 0;
}
inline int __syncthreads_and(int predicate, emulation::Where where = emulation::here()) {
  return emulation::barrier(0, 0, predicate == 0, where) == 0;
}
inline void __syncwarp(unsigned mask = emulation::kAllLanes, emulation::Where where = emulation::here()) {
  emulation::sync_warp(mask, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, emulation::Where where = emulation::here()) {
  return emulation::ballot(mask, predicate, where);
}
inline int __any_sync(unsigned mask, int predicate, emulation::Where where = emulation::here()) {
  return emulation::ballot(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emulation::Where where = emulation::here()) {
  return emulation::ballot(mask, !predicate, where) == 0;
}

namespace emulation {
template <class T>
T shuffle_value(Shuffle kind, unsigned mask, T value, int lane, int width, Where where) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "as CUDA's shuffles");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = shuffle(kind, mask, bits, lane, width, where);
  memcpy(&value, &bits, sizeof value);
  return value;
}
}  // namespace emulation

#define EMULATION_SHUFFLE(name, kind)                                                                    \
  template <class T>                                                                                     \
  T name(unsigned mask, T value, int lane, int width = 32, emulation::Where where = emulation::here()) { \
    return emulation::shuffle_value(emulation::Shuffle::kind, mask, value, lane, width, where);          \
  }
EMULATION_SHUFFLE(__shfl_sync, kIndex)
EMULATION_SHUFFLE(__shfl_xor_sync, kXor)
EMULATION_SHUFFLE(__shfl_up_sync, kUp)
EMULATION_SHUFFLE(__shfl_down_sync, kDown)
#undef EMULATION_SHUFFLE

// Arithmetic

inline float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t{a} * b >> 32); }

// Launches

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace emulation {
template <class... Parameters>
struct Call {
  void (*kernel)(Parameters...);
  std::tuple<std::decay_t<Parameters>...> arguments;
};

template <class... Parameters>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                          std::tuple<std::decay_t<Parameters>...> arguments) {
  const Index3 g = {grid.x, grid.y, grid.z}, b = {block.x, block.y, block.z};
  if (!can_launch(reinterpret_cast<const void*>(kernel), g, b, shared_bytes)) return cudaErrorInvalidConfiguration;
  using Launched = Call<Parameters...>;
  const Launched call = {kernel, std::move(arguments)};
  const bool ok = launch(g, b, shared_bytes, &call, sizeof call, [](const void* c) {
    std::apply(static_cast<const Launched*>(c)->kernel, static_cast<const Launched*>(c)->arguments);
  });
  return ok ? cudaSuccess : cudaErrorLaunchFailure;
}
}  // namespace emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return emulation::launch_kernel(kernel, config->gridDim, config->blockDim, config->dynamicSmemBytes,
                                  {std::forward<Arguments>(arguments)...});
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  return emulation::allow_shared(reinterpret_cast<const void*>(kernel), size_t(value)) ? cudaSuccess
                                                                                       : cudaErrorInvalidValue;
}
