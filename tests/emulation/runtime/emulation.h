// What the stand-in for the CUDA runtime offers to the headers that kernels include: threads, barriers, collectives and
// memory. Everything is compiled apart from the kernels, because only the kernels' own accesses are to be checked.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulation {

struct Index3 {
  unsigned x, y, z;
};

// A place in the kernels' source. Functions take it as a last argument, `Where where = here()`: the caller's line.
struct Where {
  const char* file = nullptr;
  int line = 0;
};

constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

constexpr unsigned kWarp = 32, kAllLanes = 0xffffffffu;

// The running thread's coordinates. A fiber is one thread all its life, so its values may be kept by the compiler.
__attribute__((const)) Index3 thread_index();
__attribute__((const)) Index3 block_index();
__attribute__((const)) Index3 block_size();
__attribute__((const)) Index3 grid_size();
__attribute__((const)) unsigned lane_index();

// Runs `body(call)` once for each thread of each block; `call` is `call_bytes` long, and the kernel may read it.
// Returns whether it ended without a fault.
bool launch(Index3 grid, Index3 block, size_t shared_bytes, const void* call, size_t call_bytes,
            void (*body)(const void* call));
// Beyond 48 KiB of dynamic shared memory a kernel has to be told first, as on a device (227 KiB is the most on sm_90).
bool allow_shared(const void* kernel, size_t bytes);
bool can_launch(const void* kernel, Index3 grid, Index3 block, size_t shared_bytes);

// Ends the launch with a message about the running thread.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Barrier `id` for `threads` threads of the block; 0 means all of them. Returns the sum of everybody's `value`.
int barrier(int id, unsigned threads, int value, Where where);

// A warp collective: waits until each lane of `mask` has come with its own operand, then the last one runs `complete`
// over all 32 operands (null for lanes not in the mask).
using Complete = void (*)(void* const* operands);
void collective(const char* name, unsigned mask, void* operand, Complete complete, Where where);
void sync_warp(unsigned mask, Where where);

enum class Shuffle { kIndex, kXor, kUp, kDown };
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int lane, int width, Where where);
unsigned ballot(unsigned mask, bool predicate, Where where);

// Dynamic shared memory of the block, and asynchronous copies into it (4, 8 or 16 bytes; zeros behind source_bytes).
unsigned char* shared_memory();
void copy_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes, Where where);
void copy_async_commit();
void copy_async_wait(unsigned groups_left);
void copy_async_wait_all();

// For what a primitive reads or writes on behalf of the running thread.
void check_read(const void* address, size_t bytes, Where where);
void check_write(void* address, size_t bytes, Where where);

}  // namespace emulation
