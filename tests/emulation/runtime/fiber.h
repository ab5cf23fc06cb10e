// A fiber: a stack and the registers that a function call keeps. A switch is a dozen instructions on x86-64; elsewhere
// it is ucontext's, which asks the kernel for the signal mask each time.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

#if defined(__x86_64__)

struct Fiber {
  void* stack_pointer = nullptr;
};

extern "C" void emulation_switch(Fiber* from, Fiber* to);

// `entry` never returns.
inline void prepare(Fiber& fiber, unsigned char* stack, size_t bytes, void (*entry)()) {
  uintptr_t* top = reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15});
  *--top = 0;  // where a return address of `entry` would be: the stack is aligned as after a call
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;  // rbp, rbx, r12 to r15
  fiber.stack_pointer = top;
}

inline void switch_fiber(Fiber& from, Fiber& to) { emulation_switch(&from, &to); }

#else

struct Fiber {
  ucontext_t context;
};

inline void prepare(Fiber& fiber, unsigned char* stack, size_t bytes, void (*entry)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

inline void switch_fiber(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

#endif

}  // namespace emulation
