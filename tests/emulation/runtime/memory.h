// Shadows of shared and global memory: who wrote and read each byte, and when.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulation {

enum class Access { kRead, kWrite, kAtomic };

// Checks an access of the running thread and records it. Does nothing on the host's side of a launch.
void check_access(const void* address, size_t bytes, Access access);

}  // namespace emulation

extern "C" {
// Memory that kernels may use, between gaps that they may not. `offset` is the distance from a multiple of 256.
// `written`: the host fills it; otherwise reading a byte before a kernel wrote it is a fault.
void* emulation_allocate(size_t bytes, size_t offset, bool written, bool read_only, const char* name);
void emulation_free_all();
void emulation_seed(uint64_t seed);
const char* emulation_take_fault();  // the message, then none until the next fault; empty if there is none
}
