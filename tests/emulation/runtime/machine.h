// The machine behind emulation.h: the block that runs, its warps and threads, and the clocks that order their accesses.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "emulation.h"
#include "fiber.h"

namespace emulation {

struct Warp;

struct AsyncCopy {
  unsigned char* to;
  const unsigned char* from;
  unsigned bytes, source_bytes;
  unsigned group;  // number of the group it belongs to once that is committed
};

struct Thread {
  Fiber fiber;
  unsigned char* stack;
  Index3 index;
  unsigned rank, lane;
  Warp* warp;
  bool done;
  const char* waits_for;  // null while it can run
  Where waits_at;
  int barrier_sum;
  std::vector<AsyncCopy> copies;
  unsigned committed;  // groups
};

// Lanes that have come to one collective.
struct Gathering {
  const char* name;
  unsigned mask, arrived;
  Where where;
  void* operands[kWarp];
};

// Accesses are ordered by barriers between warps (a vector clock: clock[w] is the latest time of warp w that is known
// to lie in the past) and by full-mask synchronisations between the lanes of a warp (the epoch).
struct Warp {
  unsigned number, lanes;
  std::vector<Thread*> ready;
  std::vector<Gathering> gatherings;
  std::vector<uint32_t> clock;
  uint32_t epoch;
};

struct Barrier {
  unsigned expected = 0;
  int sum = 0;
  Where where = {};
  std::vector<Thread*> waiting;
};

// What the running thread does: at a line of the source, or at an instruction where `line.file` is null.
struct Place {
  Where line;
  const void* instruction;
};

struct Machine {
  Index3 grid, block_size, block;
  unsigned threads_in_block;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[16];
  Thread* current = nullptr;  // null on the host's side
  Place place = {};
  Fiber host;
  void (*body)(const void* call);
  const void* call;
  size_t call_bytes, shared_bytes;
  std::map<const void*, size_t> allowed_shared;
  uint32_t block_serial = 1;   // counts all blocks ever run; 0 marks memory that nobody wrote, 1 what the host wrote
  uint32_t launch_serial = 2;  // of the launch's first block
  uint64_t seed = 1, random_state = 1;
  bool fault = false;
  std::string message;

  uint64_t random();
};

extern Machine machine;

constexpr size_t kStack = size_t{1} << 17;
unsigned char* stacks();  // of all threads, one after the other

// Memory's part in a thread's life.
void begin_block();
void end_thread(const Thread& thread);

}  // namespace emulation
