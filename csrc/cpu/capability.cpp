#include "capability.h"

#include <cstdlib>
#include <cstring>

#include "../common/stable.h"

namespace swin_fast {
namespace {

const Capability* capabilities() {  // best first
  static const Capability all[] = {
#if defined(SWIN_FAST_AVX512_BF16)
      {"avx512_bf16", true,
       (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")),
       avx512_bf16_kernels(), gelu_avx512_bf16()},
#else
      {"avx512_bf16", false, false, {}, nullptr},
#endif
#if defined(SWIN_FAST_AVX512)
      {"avx512", true,
       (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq")),
       avx512_kernels(), gelu_avx512()},
#else
      {"avx512", false, false, {}, nullptr},
#endif
#if defined(SWIN_FAST_AVX2)
      {"avx2", true,
       (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")),
       avx2_kernels(), gelu_avx2()},
#else
      {"avx2", false, false, {}, nullptr},
#endif
      {"portable", true, true, portable_kernels(), gelu_portable()},
      {nullptr, false, false, {}, nullptr},
  };
  return all;
}

}  // namespace

const Capability& cpu_capability() {
  static const Capability* best = [] {
    const Capability* c = capabilities();
    while (!c->built || !c->supported) ++c;
    return c;
  }();
  const char* wanted = std::getenv("SWIN_FAST_CPU_CAPABILITY");
  if (!wanted || !*wanted) return *best;
  for (const Capability* c = capabilities(); c->name; ++c) {
    if (std::strcmp(c->name, wanted) != 0) continue;
    STD_TORCH_CHECK(c->built, "SWIN_FAST_CPU_CAPABILITY=", wanted, " was not built: the compiler did not know it");
    STD_TORCH_CHECK(c->supported, "SWIN_FAST_CPU_CAPABILITY=", wanted, " is not supported by this processor");
    return *c;
  }
  STD_TORCH_CHECK(false, "SWIN_FAST_CPU_CAPABILITY must be portable, avx2, avx512 or avx512_bf16, got ", wanted);
}

}  // namespace swin_fast
