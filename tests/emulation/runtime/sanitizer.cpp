// What the compiler calls in code built with -fsanitize=thread (before every load and store that others could see) and
// -fsanitize=bounds,alignment,shift. The sanitizers' own libraries are not linked; these functions stand in for them.
#include <cstdint>

#include "emulation.h"
#include "machine.h"
#include "memory.h"

using emulation::Access;
using emulation::fault;
using emulation::machine;

namespace {

void check(const void* address, size_t bytes, Access access, void* instruction) {
  if (!machine.current) return;
  machine.place = {{}, instruction};
  emulation::check_access(address, bytes, access);
}

struct SourceLocation {  // the beginning of each of the compiler's descriptions
  const char* file;
  uint32_t line, column;
};

struct TypeMismatch {
  SourceLocation at;
  const void* type;
  unsigned char log_alignment, kind;
};

void undefined(const SourceLocation& at, const char* what, uintptr_t value) {
  if (!machine.current) return;
  machine.place = {{at.file, int(at.line)}, nullptr};
  fault("%s (%td)", what, ptrdiff_t(value));
}

}  // namespace

#define CALLER __builtin_return_address(0)
#define CHECKED(bytes)                                                                    \
  void __tsan_read##bytes(void* p) { check(p, bytes, Access::kRead, CALLER); }            \
  void __tsan_write##bytes(void* p) { check(p, bytes, Access::kWrite, CALLER); }          \
  void __tsan_volatile_read##bytes(void* p) { check(p, bytes, Access::kRead, CALLER); }   \
  void __tsan_volatile_write##bytes(void* p) { check(p, bytes, Access::kWrite, CALLER); } \
  void __tsan_unaligned_read##bytes(void* p) { check(p, bytes, Access::kRead, CALLER); }  \
  void __tsan_unaligned_write##bytes(void* p) { check(p, bytes, Access::kWrite, CALLER); }

extern "C" {
CHECKED(1)
CHECKED(2)
CHECKED(4)
CHECKED(8)
CHECKED(16)
void __tsan_read_range(void* p, size_t bytes) { check(p, bytes, Access::kRead, CALLER); }
void __tsan_write_range(void* p, size_t bytes) { check(p, bytes, Access::kWrite, CALLER); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }

void __ubsan_handle_out_of_bounds(const SourceLocation* at, uintptr_t index) {
  undefined(*at, "index outside of an array", index);
}
void __ubsan_handle_shift_out_of_bounds(const SourceLocation* at, uintptr_t, uintptr_t by) {
  undefined(*at, "shift by more bits than there are", by);
}
void __ubsan_handle_type_mismatch_v1(const TypeMismatch* what, uintptr_t pointer) {
  if (!machine.current) return;
  machine.place = {{what->at.file, int(what->at.line)}, nullptr};
  fault("pointer %#tx is null or no multiple of the %d bytes that its type needs", ptrdiff_t(pointer),
        1 << what->log_alignment);
}
}
