// Blocks one after the other, in random order; the threads of a block are fibers that switch where they wait.
#include "machine.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <numeric>

#if defined(__x86_64__)
asm(R"(
.text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, .-emulation_switch
)");
#endif

namespace emulation {

Machine machine;

namespace {

constexpr unsigned kMostThreads = 1024;
constexpr size_t kDefaultShared = 48 << 10, kMostShared = 227 << 10;

std::string name_of(const Thread& t) {
  char text[200];
  const Index3 b = machine.block, i = t.index;
  snprintf(text, sizeof text, "block (%u, %u, %u) thread (%u, %u, %u), lane %u of warp %u", b.x, b.y, b.z, i.x, i.y,
           i.z, t.lane, t.warp->number);
  return text;
}

std::string text(Where where) {
  const std::string file = where.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line);
}

// An instruction is given by its offset in this library, which the harness turns into a source line.
std::string text(const Place& place) {
  if (place.line.file) return " [" + text(place.line) + "]";
  Dl_info info;
  if (!place.instruction || !dladdr(place.instruction, &info)) return "";
  char offset[32];
  snprintf(offset, sizeof offset, " <%tx>",
           static_cast<const char*>(place.instruction) - static_cast<char*>(info.dli_fbase));
  return offset;
}

void to_host() {
  Thread* thread = machine.current;
  machine.current = nullptr;
  switch_fiber(thread->fiber, machine.host);
}

void wait(const char* what, Where where) {
  machine.current->waits_for = what;
  machine.current->waits_at = where;
  to_host();
}

void wake(Thread* thread) {
  thread->waits_for = nullptr;
  thread->warp->ready.push_back(thread);
}

// In an order that differs from time to time.
void wake_all(const std::vector<Thread*>& threads) {
  const size_t n = threads.size(), first = machine.random() % n;
  const bool backwards = machine.random() & 1;
  for (size_t i = 0; i < n; ++i) wake(threads[(first + (backwards ? n - i : i)) % n]);
}

void run_thread() {
  Thread* thread = machine.current;
  machine.body(machine.call);
  end_thread(*thread);
  thread->done = true;
  to_host();
}

// Nobody can run and not everybody is done: who waits for what.
void report_stuck() {
  std::string message = "threads wait for others that will not come:";
  std::vector<std::string> lines;
  for (const Thread& t : machine.threads) {
    const std::string state =
        t.done ? "has ended" : std::string("is at ") + t.waits_for + " (" + text(t.waits_at) + ")";
    if (!lines.empty() && lines.back() == state) continue;  // consecutive threads in one state: the first is named
    lines.push_back(state);
    if (lines.size() <= 12) message += "\n  " + name_of(t) + " " + state;
  }
  machine.fault = true;
  machine.message = message;
}

void start_block(Index3 block) {
  machine.block = block;
  ++machine.block_serial;
  for (Barrier& b : machine.barriers) b.expected = 0, b.sum = 0, b.waiting.clear();
  for (Warp& w : machine.warps) {
    w.ready.clear();
    w.gatherings.clear();
    w.clock.assign(machine.warps.size(), 0);
    w.clock[w.number] = 1;
    w.epoch = 0;
  }
  for (Warp& w : machine.warps) {
    std::vector<Thread*> all;
    for (Thread& t : machine.threads)
      if (t.warp == &w) all.push_back(&t);
    wake_all(all);
  }
  for (Thread& t : machine.threads) {
    t.done = false;
    t.copies.clear();
    t.committed = 0;
    prepare(t.fiber, t.stack, kStack, run_thread);
  }
  begin_block();
}

void run_block(Index3 block) {
  start_block(block);
  size_t alive = machine.threads.size();
  Warp* warp = nullptr;
  while (alive > 0) {
    if (!warp || warp->ready.empty() || machine.random() % 16 == 0) {
      const size_t n = machine.warps.size(), first = machine.random() % n;
      warp = nullptr;
      for (size_t i = 0; i < n && !warp; ++i)
        if (!machine.warps[(first + i) % n].ready.empty()) warp = &machine.warps[(first + i) % n];
      if (!warp) return report_stuck();
    }
    machine.current = warp->ready.back();
    warp->ready.pop_back();
    Thread& thread = *machine.current;
    switch_fiber(machine.host, thread.fiber);
    if (machine.fault) return;
    alive -= thread.done;
  }
}

void set_up_threads() {
  const Index3 size = machine.block_size;
  machine.threads_in_block = size.x * size.y * size.z;
  machine.warps.resize((machine.threads_in_block + kWarp - 1) / kWarp);
  machine.threads.resize(machine.threads_in_block);
  for (Warp& w : machine.warps) w.number = &w - machine.warps.data(), w.lanes = 0;
  for (unsigned rank = 0; rank < machine.threads_in_block; ++rank) {
    Thread& t = machine.threads[rank];
    t.rank = rank, t.lane = rank % kWarp, t.warp = &machine.warps[rank / kWarp];
    t.index = {rank % size.x, rank / size.x % size.y, rank / (size.x * size.y)};
    t.stack = stacks() + rank * kStack;
    t.warp->lanes |= 1u << t.lane;
  }
}

}  // namespace

uint64_t Machine::random() {  // xorshift64* (Vigna, 2016)
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545F4914F6CDD1Dull >> 16;
}

unsigned char* stacks() {
  static unsigned char* const memory = static_cast<unsigned char*>(
      mmap(nullptr, kMostThreads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return memory;
}

void fault(const char* format, ...) {
  char message[600];
  va_list list;
  va_start(list, format);
  vsnprintf(message, sizeof message, format, list);
  va_end(list);
  machine.fault = true;
  machine.message = (machine.current ? name_of(*machine.current) + ": " : "") + message + text(machine.place);
  if (machine.current) to_host();  // for good: the threads of the block are given up
  std::abort();
}

bool allow_shared(const void* kernel, size_t bytes) {
  if (bytes > kMostShared) return false;
  machine.allowed_shared[kernel] = bytes;
  return true;
}

bool can_launch(const void* kernel, Index3 grid, Index3 block, size_t shared_bytes) {
  const auto allowed = machine.allowed_shared.find(kernel);
  const size_t shared = allowed == machine.allowed_shared.end() ? kDefaultShared : allowed->second;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return threads > 0 && threads <= kMostThreads && block.z <= 64 && grid.x > 0 && grid.y > 0 && grid.z > 0 &&
         grid.y <= 65535 && grid.z <= 65535 && shared_bytes <= std::max(shared, kDefaultShared);
}

bool launch(Index3 grid, Index3 block, size_t shared_bytes, const void* call, size_t call_bytes,
            void (*body)(const void* call)) {
  if (machine.fault) return false;
  machine.grid = grid, machine.block_size = block, machine.shared_bytes = shared_bytes;
  machine.call = call, machine.call_bytes = call_bytes, machine.body = body;
  machine.launch_serial = machine.block_serial + 1;
  set_up_threads();
  std::vector<unsigned> order(size_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[machine.random() % i]);
  for (unsigned b : order) {
    run_block({b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)});
    if (machine.fault) return false;
  }
  return true;
}

Index3 thread_index() { return machine.current->index; }
Index3 block_index() { return machine.block; }
Index3 block_size() { return machine.block_size; }
Index3 grid_size() { return machine.grid; }
unsigned lane_index() { return machine.current->lane; }

int barrier(int id, unsigned threads, int value, Where where) {
  machine.place = {where, nullptr};
  if (id < 0 || id > 15) fault("barrier %d: there are 16", id);
  Barrier& b = machine.barriers[id];
  if (threads == 0) threads = machine.threads_in_block;
  if (threads % kWarp && threads != machine.threads_in_block) fault("barrier of %u threads: not whole warps", threads);
  if (b.waiting.empty()) b.expected = threads, b.where = where, b.sum = 0;
  if (b.expected != threads) fault("barrier %d: %u threads here, %u elsewhere", id, threads, b.expected);
  if (b.where.line != where.line) fault("barrier %d: others of it are at %s", id, text(b.where).c_str());
  b.waiting.push_back(machine.current);
  b.sum += value;
  if (b.waiting.size() < threads) {
    wait("a barrier", where);
    return machine.current->barrier_sum;
  }
  std::vector<unsigned> arrived(machine.warps.size(), 0);
  for (Thread* t : b.waiting) arrived[t->warp->number] |= 1u << t->lane;
  std::vector<uint32_t> now(machine.warps.size(), 0);
  for (const Warp& w : machine.warps) {
    if (!arrived[w.number]) continue;
    if (arrived[w.number] != w.lanes) fault("barrier %d: only lanes %08x of warp %u", id, arrived[w.number], w.number);
    for (size_t i = 0; i < now.size(); ++i) now[i] = std::max(now[i], w.clock[i]);
  }
  for (Warp& w : machine.warps) {
    if (!arrived[w.number]) continue;
    w.clock = now;
    ++w.clock[w.number];
    ++w.epoch;
  }
  for (Thread* t : b.waiting) t->barrier_sum = b.sum;
  std::vector<Thread*> waiting;
  std::swap(waiting, b.waiting);
  wake_all(waiting);  // the running thread, too: it takes its turn again
  to_host();
  return machine.current->barrier_sum;
}

void collective(const char* name, unsigned mask, void* operand, Complete complete, Where where) {
  machine.place = {where, nullptr};
  Thread& me = *machine.current;
  Warp& warp = *me.warp;
  if (!(mask >> me.lane & 1)) fault("%s with mask %08x, which leaves the running lane out", name, mask);
  mask &= warp.lanes;
  auto g = std::find_if(warp.gatherings.begin(), warp.gatherings.end(), [&](const Gathering& o) {
    return o.name == name && o.mask == mask && o.where.line == where.line;
  });
  if (g == warp.gatherings.end()) {
    warp.gatherings.push_back({name, mask, 0, where, {}});
    g = warp.gatherings.end() - 1;
  }
  g->arrived |= 1u << me.lane;
  g->operands[me.lane] = operand;
  if (g->arrived != mask) return wait(name, where);
  const Gathering whole = *g;
  warp.gatherings.erase(g);
  complete(whole.operands);
  std::vector<Thread*> lanes;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (mask >> lane & 1) lanes.push_back(&machine.threads[warp.number * kWarp + lane]);
  wake_all(lanes);
  to_host();
}

}  // namespace emulation
