// Small kernels for the tests of the stand-in itself: right ones whose results are known, and wrong ones.
#include <cuda_runtime.h>

#include <map>
#include <string>

#include "matrix.h"

namespace {

using emulation::Half;

struct Arguments {
  void* pointer[4];
  int number[3];
  template <class T>
  __device__ T* at(int i) const {
    return static_cast<T*>(pointer[i]);
  }
};

template <class T>
__device__ T* shared() {
  return reinterpret_cast<T*>(emulation::shared_memory());
}

// Each lane's registers are one row of the tensors.
__global__ void mma_k16(Arguments a) {
  const int lane = threadIdx.x;
  float d[4];
  emulation::multiply_k16(Half(a.number[0]), d, a.at<uint32_t>(0) + lane * 4, a.at<uint32_t>(1) + lane * 2,
                          a.at<float>(2) + lane * 4, emulation::here());
  for (int i = 0; i < 4; ++i) a.at<float>(3)[lane * 4 + i] = d[i];
}

__global__ void mma_k8(Arguments a) {
  const int lane = threadIdx.x;
  float d[4];
  emulation::multiply_k8(Half(a.number[0]), d, a.at<uint32_t>(0) + lane * 2, a.at<uint32_t>(1) + lane,
                         a.at<float>(2) + lane * 4, emulation::here());
  for (int i = 0; i < 4; ++i) a.at<float>(3)[lane * 4 + i] = d[i];
}

__global__ void mma_tf32(Arguments a) {
  const int lane = threadIdx.x;
  float d[4];
  emulation::multiply_k8_tf32(d, a.at<uint32_t>(0) + lane * 4, a.at<uint32_t>(1) + lane * 2, a.at<float>(2) + lane * 4,
                              emulation::here());
  for (int i = 0; i < 4; ++i) a.at<float>(3)[lane * 4 + i] = d[i];
}

// (matrices, 8, 8) 16-bit values -> each lane's registers.
__global__ void ldmatrix(Arguments a) {
  const int lane = threadIdx.x, count = a.number[0];
  for (int i = lane; i < count * 64; i += 32) shared<uint16_t>()[i] = a.at<uint16_t>(0)[i];
  __syncwarp();
  uint32_t registers[4];
  emulation::load_matrices(registers, count, a.number[1], shared<uint16_t>() + lane % (count * 8) * 8,
                           emulation::here());
  for (int m = 0; m < count; ++m) a.at<uint32_t>(1)[lane * count + m] = registers[m];
}

__global__ void movmatrix(Arguments a) {
  const int lane = threadIdx.x;
  a.at<uint32_t>(1)[lane] = emulation::transpose_matrix(a.at<uint32_t>(0)[lane], emulation::here());
}

__global__ void convert(Arguments a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float value = a.at<float>(0)[i];
  a.at<uint16_t>(1)[i] = emulation::from_float(Half::kFloat16, value);
  a.at<uint16_t>(2)[i] = emulation::from_float(Half::kBFloat16, value);
  a.at<uint32_t>(3)[i] = emulation::to_tf32(value);
}

__global__ void widen(Arguments a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  a.at<float>(1)[i] = emulation::to_float(Half(a.number[0]), a.at<uint16_t>(0)[i]);
}

__global__ void shuffle(Arguments a) {
  const int i = threadIdx.x, by = a.number[1], width = a.number[2];
  const int value = a.at<int>(0)[i];
  int got = 0;
  if (a.number[0] == 0) got = __shfl_sync(0xffffffffu, value, by, width);
  if (a.number[0] == 1) got = __shfl_xor_sync(0xffffffffu, value, by, width);
  if (a.number[0] == 2) got = __shfl_up_sync(0xffffffffu, value, by, width);
  if (a.number[0] == 3) got = __shfl_down_sync(0xffffffffu, value, by, width);
  a.at<int>(1)[i] = got;
}

__global__ void shuffle_upper_half(Arguments a) {
  if (threadIdx.x >= 16) a.at<int>(0)[threadIdx.x] = __shfl_sync(0xffff0000u, int(threadIdx.x), a.number[0]);
}

__global__ void votes(Arguments a) {
  const bool odd = threadIdx.x % 2;
  a.at<unsigned>(0)[threadIdx.x] = __ballot_sync(0xffffffffu, odd) + __any_sync(0xffffffffu, threadIdx.x == 3) +
                                   2 * __all_sync(0xffffffffu, threadIdx.x < 40) + 4 * __syncthreads_count(odd);
}

// Each warp adds up what all the others wrote, twice over, with a barrier before and after each reading.
__global__ void barriers(Arguments a) {
  int* s = shared<int>();
  const int n = blockDim.x, me = threadIdx.x;
  int sum = 0;
  for (int round = 0; round < 2; ++round) {
    s[me] = me + round;
    __syncthreads();
    for (int i = 0; i < n; ++i) sum += s[i];
    if (a.number[0]) __syncthreads();
  }
  a.at<int>(0)[blockIdx.x * n + me] = sum;
}

// Two pairs of warps, each with a barrier of its own.
__global__ void named_barriers(Arguments a) {
  int* s = shared<int>();
  const int pair = threadIdx.x / 64, other = a.number[0] ? threadIdx.x ^ 32 : threadIdx.x ^ 64;
  s[threadIdx.x] = threadIdx.x;
  emulation::barrier(1 + pair, 64, 0, emulation::here());
  a.at<int>(0)[threadIdx.x] = s[other];
}

__global__ void diverge(Arguments a) {
  switch (a.number[0]) {
    case 0:  // some end, the others wait
      if (threadIdx.x < 32) return;
      __syncthreads();
      break;
    case 1:  // two barriers that are one to the machine
      if (threadIdx.x < 32)
        __syncthreads();
      else
        __syncthreads();
      break;
    case 2:  // a lane that the mask names has gone
      if (threadIdx.x == 5) return;
      a.at<int>(0)[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
      break;
    case 3:  // a lane that the mask does not name
      a.at<int>(0)[threadIdx.x] = __shfl_sync(0xffffu, 1, 0);
      break;
    case 4:  // half of the warp at a barrier, half at a vote
      if (threadIdx.x < 16)
        __syncthreads();
      else
        __any_sync(0xffffffffu, 1);
      break;
    case 5:  // part of a warp at a barrier of its own
      if (threadIdx.x < 48) emulation::barrier(1, 48, 0, emulation::here());
      break;
  }
}

// Lane i reads what lane i + 1 wrote.
__global__ void neighbour(Arguments a) {
  int* s = shared<int>();
  s[threadIdx.x] = threadIdx.x;
  if (a.number[0]) __syncwarp();
  a.at<int>(0)[threadIdx.x] = s[(threadIdx.x + 1) % 32];
}

// Writes what the warp's lanes have just read.
__global__ void overwrite(Arguments a) {
  int* s = shared<int>();
  s[threadIdx.x] = 1;
  __syncwarp();
  int sum = 0;
  for (int i = 0; i < 32; ++i) sum += s[i];
  if (a.number[0]) __syncwarp();
  s[threadIdx.x] = sum;
}

__global__ void memory(Arguments a) {
  float *in = a.at<float>(0), *out = a.at<float>(1), *s = shared<float>();
  const int n = a.number[1];
  switch (a.number[0]) {
    case 0:
      out[0] = in[n];
      break;
    case 1:
      out[n] = 0;
      break;
    case 2:
      in[n] = 0;
      break;
    case 3:
      out[0] = out[n];
      break;
    case 4:
      s[n] = 0;
      break;
    case 5:
      s[0] = 1;
      out[0] = s[n];
      break;
    case 6:
      *reinterpret_cast<float4*>(out) = *reinterpret_cast<const float4*>(in + n);
      break;
    case 7: {
      float local[4] = {in[0], in[1], in[2], in[3]};
      out[0] = local[n];
      break;
    }
    case 8:
      out[0] = *reinterpret_cast<float*>(uintptr_t(64) + n);
      break;
    case 9:
      out[0] = float(1 << n);
      break;
  }
}

// Every block adds to the same number, or writes a part of its own.
__global__ void blocks(Arguments a) {
  float* out = a.at<float>(0);
  if (a.number[0] == 0) out[blockIdx.x] = blockIdx.x;
  if (a.number[0] == 1) out[0] += 1;
  if (a.number[0] == 2) out[(blockIdx.x + 1) % gridDim.x] = out[blockIdx.x];
}

// 32 lanes copy 16 bytes each, in two groups, and read their own or their neighbour's.
__global__ void copies(Arguments a) {
  const int lane = threadIdx.x, mode = a.number[0];
  unsigned char* s = shared<unsigned char>();
  const unsigned char* in = a.at<unsigned char>(0);
  emulation::copy_async(s + lane * 16, in + lane * 16, 16, mode == 5 ? lane % 17 : 16, emulation::here());
  if (mode != 6) emulation::copy_async_commit();
  emulation::copy_async(s + 512 + lane * 16, in + 512 + lane * 16, 16, 16, emulation::here());
  emulation::copy_async_commit();
  if (mode == 1) emulation::copy_async_wait(1);
  if (mode != 0 && mode != 1) emulation::copy_async_wait(0);
  if (mode == 3) __syncwarp();
  const int from = mode == 2 || mode == 3 ? (lane + 1) % 32 : lane;
  for (int half = 0; half < (mode == 4 ? 1 : 2); ++half)
    reinterpret_cast<float4*>(a.at<char>(1))[half * 32 + lane] = reinterpret_cast<float4*>(s)[half * 32 + from];
}

__global__ void copy_alignment(Arguments a) {
  if (threadIdx.x) return;
  emulation::copy_async(shared<char>() + a.number[0], a.at<char>(0) + a.number[1], 16, 16, emulation::here());
  if (a.number[2]) emulation::copy_async_wait_all();
}

// The order in which warps come through a barrier, and that of the blocks.
__global__ void order(Arguments a) {
  static int turn = 0;
  if (threadIdx.x == 0 && blockIdx.x == 0) turn = 0;
  __syncthreads();
  if (threadIdx.x % 32 == 0) a.at<int>(0)[threadIdx.x / 32] = turn++;
}

#define KERNEL(name) {#name, name}
const std::map<std::string, void (*)(Arguments)> kKernels = {
    KERNEL(mma_k16),        KERNEL(mma_k8),  KERNEL(mma_tf32),  KERNEL(ldmatrix),           KERNEL(movmatrix),
    KERNEL(convert),        KERNEL(widen),   KERNEL(shuffle),   KERNEL(shuffle_upper_half), KERNEL(votes),
    KERNEL(barriers),       KERNEL(diverge), KERNEL(neighbour), KERNEL(overwrite),          KERNEL(memory),
    KERNEL(named_barriers), KERNEL(blocks),  KERNEL(copies),    KERNEL(copy_alignment),     KERNEL(order),
};

}  // namespace

extern "C" int standin_launch(const char* name, int blocks, int threads, size_t shared_bytes,
                              const Arguments* arguments) {
  cudaLaunchConfig_t config;
  config.gridDim = blocks, config.blockDim = threads, config.dynamicSmemBytes = shared_bytes;
  return cudaLaunchKernelEx(&config, kKernels.at(name), *arguments);
}
