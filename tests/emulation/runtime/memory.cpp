#include "memory.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "machine.h"

namespace emulation {
namespace {

constexpr size_t kSharedReserve = 1 << 20, kSharedMargin = 1 << 16, kGlobalReserve = size_t{4} << 30, kGap = 4096;
constexpr uint32_t kByHost = 1;

unsigned char* reserve(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return static_cast<unsigned char*>(p);
}

// One access to a byte of shared memory. `time` is the warp's own clock, `epoch` the warp's.
struct Stamp {
  uint32_t time = 0, epoch = 0;  // time 0: no such access
  uint16_t thread = 0;
  bool several = false;  // other lanes of that warp have read it in the same epoch
};

struct SharedByte {
  uint32_t block = 0;       // serial number of the block it belongs to
  uint16_t pending_of = 0;  // 1 + the thread whose asynchronous copy is to arrive
  bool written = false;
  Stamp write, read, other_read;  // the last ones; other_read is the last by a warp that is not read's
};

struct Allocation {
  unsigned char* data;
  size_t bytes;
  bool read_only;
  std::string name;
  std::vector<uint32_t> writer, reader;  // serial numbers of blocks, for memory that kernels write
};

struct Memory {
  unsigned char* shared = reserve(kSharedMargin + kSharedReserve) + kSharedMargin;
  SharedByte* shared_bytes = reinterpret_cast<SharedByte*>(reserve(kSharedReserve * sizeof(SharedByte)));
  unsigned char* global = reserve(kGlobalReserve);
  unsigned char* global_end = global;
  std::vector<Allocation> allocations;
  Allocation* last = nullptr;
  uintptr_t image_begin = 0, image_end = 0;

  Memory() {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* self) {
          const uintptr_t here = reinterpret_cast<uintptr_t>(&machine);
          uintptr_t begin = UINTPTR_MAX, end = 0;
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& segment = info->dlpi_phdr[i];
            if (segment.p_type != PT_LOAD) continue;
            begin = std::min(begin, uintptr_t(info->dlpi_addr + segment.p_vaddr));
            end = std::max(end, uintptr_t(info->dlpi_addr + segment.p_vaddr + segment.p_memsz));
          }
          if (here < begin || here >= end) return 0;
          static_cast<Memory*>(self)->image_begin = begin;
          static_cast<Memory*>(self)->image_end = end;
          return 1;
        },
        this);
  }
};

Memory memory;

bool happened_before(const Stamp& s) {
  const Thread& me = *machine.current;
  if (s.time == 0 || s.thread == me.rank) return true;
  const unsigned warp = s.thread / kWarp;
  return warp == me.warp->number ? s.epoch < me.warp->epoch : s.time <= me.warp->clock[warp];
}

Stamp now() {
  const Thread& me = *machine.current;
  return {me.warp->clock[me.warp->number], me.warp->epoch, uint16_t(me.rank), false};
}

const char* verb(Access a) { return a == Access::kRead ? "read" : "write"; }

[[noreturn]] void race(size_t at, Access access, const Stamp& s, const char* earlier) {
  fault("race: %s of shared memory at byte %zu, which thread %u (warp %u) %s, with no synchronisation in between",
        verb(access), at, s.thread, s.thread / kWarp, earlier);
}

void check_order_of_write(SharedByte& b, size_t at) {
  if (!happened_before(b.write)) race(at, Access::kWrite, b.write, "wrote");
  const bool lanes = b.read.several && b.read.thread / kWarp == machine.current->warp->number &&
                     b.read.epoch == machine.current->warp->epoch;
  if (lanes || !happened_before(b.read)) race(at, Access::kWrite, b.read, "read");
  if (!happened_before(b.other_read)) race(at, Access::kWrite, b.other_read, "read");
}

void record_read(SharedByte& b) {
  Stamp s = now();
  if (b.read.time && b.read.thread / kWarp != s.thread / kWarp) {
    b.other_read = b.read;
  } else if (b.read.time && b.read.epoch == s.epoch) {
    s.several = b.read.several || b.read.thread != s.thread;
  }
  b.read = s;
}

SharedByte& shared_byte(size_t at) {
  SharedByte& b = memory.shared_bytes[at];
  if (b.block != machine.block_serial) {
    b = SharedByte{};
    b.block = machine.block_serial;
  }
  return b;
}

bool in_shared(const unsigned char* p) {  // or so near that it was meant to be
  return size_t(p - memory.shared + kSharedMargin) < kSharedMargin + kSharedReserve;
}

void check_shared(const unsigned char* p, size_t bytes, Access access) {
  const ptrdiff_t first = p - memory.shared;
  if (first < 0 || first + bytes > machine.shared_bytes)
    fault("%s of %zu bytes of shared memory at byte %td, outside of its %zu bytes", verb(access), bytes, first,
          machine.shared_bytes);
  const size_t at = size_t(first);
  for (size_t i = at; i < at + bytes; ++i) {
    SharedByte& b = shared_byte(i);
    if (b.pending_of)
      fault("%s of shared memory at byte %zu, where an asynchronous copy of thread %u has not been waited for",
            verb(access), i, b.pending_of - 1u);
    if (access == Access::kRead) {
      if (!b.written) fault("read of shared memory at byte %zu (of %zu), which nobody wrote", i, bytes);
      if (!happened_before(b.write)) race(i, access, b.write, "wrote");
      record_read(b);
    } else {
      check_order_of_write(b, i);
      b.written = true;
      b.write = now();
    }
  }
}

Allocation* find(const unsigned char* p) {
  const auto holds = [&](const Allocation& a) { return p >= a.data && p < a.data + a.bytes; };
  if (memory.last && holds(*memory.last)) return memory.last;
  for (Allocation& a : memory.allocations)
    if (holds(a)) return memory.last = &a;
  return nullptr;
}

[[noreturn]] void outside(const unsigned char* p, size_t bytes, Access access) {
  const Allocation* nearest = nullptr;
  ptrdiff_t distance = 0;
  for (const Allocation& a : memory.allocations) {
    const ptrdiff_t d = p < a.data ? p - a.data : p + bytes - (a.data + a.bytes);
    if (!nearest || std::abs(d) < std::abs(distance)) nearest = &a, distance = d;
  }
  fault("%s of %zu bytes of global memory outside of every tensor: %td bytes %s %s", verb(access), bytes,
        std::abs(distance), distance < 0 ? "before" : "beyond", nearest ? nearest->name.c_str() : "(none)");
}

void check_global(const unsigned char* p, size_t bytes, Access access) {
  Allocation* a = find(p);
  if (!a || p + bytes > a->data + a->bytes) outside(p, bytes, access);
  const size_t at = p - a->data;
  if (a->read_only) {
    if (access != Access::kRead) fault("write to %s at byte %zu, an input", a->name.c_str(), at);
    return;
  }
  const uint32_t serial = machine.block_serial;
  const auto of_another_block = [&](uint32_t s) { return s >= machine.launch_serial && s != serial; };
  for (size_t i = at; i < at + bytes; ++i) {
    const bool conflict =
        of_another_block(a->writer[i]) || (access == Access::kWrite && of_another_block(a->reader[i]));
    if (conflict && access != Access::kAtomic)
      fault("%s of %s at byte %zu, which another block of this launch also uses", verb(access), a->name.c_str(), i);
    if (access != Access::kWrite && !a->writer[i])
      fault("read of %s at byte %zu, which nobody wrote", a->name.c_str(), i);
    (access == Access::kRead ? a->reader : a->writer)[i] = serial;
  }
}

bool is_own(uintptr_t p, size_t bytes) {  // local variables, constants of the library, the kernel's parameters
  const auto within = [&](const void* begin, size_t size) {
    return p >= uintptr_t(begin) && p + bytes <= uintptr_t(begin) + size;
  };
  return within(stacks(), machine.threads_in_block * kStack) || within(machine.call, machine.call_bytes) ||
         (p >= memory.image_begin && p + bytes <= memory.image_end);
}

void arrive(const AsyncCopy& copy) {
  memcpy(copy.to, copy.from, copy.source_bytes);
  memset(copy.to + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  for (unsigned i = 0; i < copy.bytes; ++i) {
    SharedByte& b = shared_byte(copy.to + i - memory.shared);
    b.pending_of = 0;
    b.written = true;
    b.write = now();
  }
}

void arrive_until(unsigned first_group_left) {
  auto& copies = machine.current->copies;
  size_t left = 0;
  for (const AsyncCopy& c : copies) {
    if (c.group < first_group_left)
      arrive(c);
    else
      copies[left++] = c;
  }
  copies.resize(left);
}

}  // namespace

void check_access(const void* address, size_t bytes, Access access) {
  if (!machine.current) return;
  const auto* p = static_cast<const unsigned char*>(address);
  if (in_shared(p)) return check_shared(p, bytes, access);
  if (size_t(p - memory.global) < kGlobalReserve) return check_global(p, bytes, access);
  if (!is_own(uintptr_t(p), bytes)) fault("%s of %zu bytes at %p, no memory of the kernel", verb(access), bytes, p);
}

void check_read(const void* address, size_t bytes, Where where) {
  machine.place = {where, nullptr};
  check_access(address, bytes, Access::kRead);
}

void check_write(void* address, size_t bytes, Where where) {
  machine.place = {where, nullptr};
  check_access(address, bytes, Access::kWrite);
}

void begin_block() { memset(memory.shared, 0xff, machine.shared_bytes); }  // NaN in every floating type

void end_thread(const Thread& thread) {
  if (!thread.copies.empty())
    fault("the thread ends with %zu asynchronous copies not waited for", thread.copies.size());
}

unsigned char* shared_memory() { return memory.shared; }

void copy_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes, Where where) {
  machine.place = {where, nullptr};
  auto* to = static_cast<unsigned char*>(shared);
  if (!in_shared(to)) fault("an asynchronous copy must end in shared memory");
  if (uintptr_t(to) % bytes || (source_bytes && uintptr_t(global) % bytes))
    fault("an asynchronous copy of %u bytes is not aligned to its size", bytes);
  if (source_bytes > bytes) fault("an asynchronous copy of %u bytes reads %u", bytes, source_bytes);
  check_shared(to, bytes, Access::kWrite);
  if (source_bytes) check_access(global, source_bytes, Access::kRead);
  for (unsigned i = 0; i < bytes; ++i) shared_byte(to + i - memory.shared).pending_of = machine.current->rank + 1;
  memset(to, 0xff, bytes);
  machine.current->copies.push_back({to, static_cast<const unsigned char*>(global), bytes, source_bytes, UINT32_MAX});
}

void copy_async_commit() {
  Thread& me = *machine.current;
  for (AsyncCopy& c : me.copies)
    if (c.group == UINT32_MAX) c.group = me.committed;
  ++me.committed;
}

void copy_async_wait(unsigned groups_left) {
  const unsigned committed = machine.current->committed;
  arrive_until(committed > groups_left ? committed - groups_left : 0);
}

void copy_async_wait_all() {
  copy_async_commit();
  copy_async_wait(0);
}

}  // namespace emulation

using emulation::machine;

void* emulation_allocate(size_t bytes, size_t offset, bool written, bool read_only, const char* name) {
  auto& m = emulation::memory;
  unsigned char* data = m.global_end + emulation::kGap;
  data += 255 - (uintptr_t(data) + 255) % 256 + offset;
  m.global_end = data + bytes;
  emulation::Allocation a = {data, bytes, read_only, name, {}, {}};
  if (!read_only) a.writer.assign(bytes, written ? emulation::kByHost : 0), a.reader.assign(bytes, 0);
  m.allocations.push_back(a);
  m.last = nullptr;
  return data;
}

void emulation_free_all() {
  auto& m = emulation::memory;
  madvise(m.global, m.global_end - m.global, MADV_DONTNEED);
  m.allocations.clear();
  m.last = nullptr;
  m.global_end = m.global;
}

void emulation_seed(uint64_t seed) {
  machine.seed = seed;
  machine.random_state = seed * 2 + 1;
}

const char* emulation_take_fault() {
  static std::string taken;
  taken = machine.fault ? machine.message : "";
  machine.fault = false;
  return taken.c_str();
}
