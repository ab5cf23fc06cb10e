// Shuffles, votes and the synchronisation of a warp.
#include "machine.h"

namespace emulation {
namespace {

struct Vote {
  bool predicate;
  unsigned ballot;
};

struct Exchange {
  Shuffle kind;
  uint64_t bits, result;
  int lane, width;
};

void complete_vote(void* const* operands) {
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (operands[lane]) ballot |= unsigned(static_cast<const Vote*>(operands[lane])->predicate) << lane;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (operands[lane]) static_cast<Vote*>(operands[lane])->ballot = ballot;
}

// The lane that `lane` reads from; its own where the source lies outside of its segment of `width` lanes.
int source_lane(const Exchange& e, int lane) {
  const int first = lane & ~(e.width - 1), last = first + e.width - 1;
  switch (e.kind) {
    case Shuffle::kIndex:
      return first + (e.lane & (e.width - 1));
    case Shuffle::kXor:
      return (lane ^ e.lane) <= last ? lane ^ e.lane : lane;
    case Shuffle::kUp:
      return lane - e.lane >= first ? lane - e.lane : lane;
    case Shuffle::kDown:
      return lane + e.lane <= last ? lane + e.lane : lane;
  }
  return lane;
}

void complete_shuffle(void* const* operands) {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!operands[lane]) continue;
    Exchange& e = *static_cast<Exchange*>(operands[lane]);
    const int from = source_lane(e, int(lane));
    if (!operands[from]) fault("shuffle: lane %u reads from lane %d, which does not take part", lane, from);
    e.result = static_cast<const Exchange*>(operands[from])->bits;
  }
}

}  // namespace

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int lane, int width, Where where) {
  Exchange e = {kind, bits, 0, lane, width};
  collective("a shuffle", mask, &e, complete_shuffle, where);
  return e.result;
}

unsigned ballot(unsigned mask, bool predicate, Where where) {
  Vote vote = {predicate, 0};
  collective("a vote", mask, &vote, complete_vote, where);
  return vote.ballot;
}

// Orders memory between the lanes, which is recorded where all lanes of the warp take part.
void sync_warp(unsigned mask, Where where) {
  Warp* warp = machine.current->warp;
  const bool whole = (mask & warp->lanes) == warp->lanes;
  collective(
      "__syncwarp", mask, whole ? warp : nullptr,
      [](void* const* operands) {
        for (unsigned lane = 0; lane < kWarp; ++lane)
          if (operands[lane]) return void(++static_cast<Warp*>(operands[lane])->epoch);
      },
      where);
}

}  // namespace emulation
