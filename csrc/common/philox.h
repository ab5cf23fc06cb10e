// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the dropout mask of every
// backend. Word k at counter (c, query, window * heads + head) belongs to key k * ceil(tokens / 4) + c; the key is the
// seed.
#pragma once

#include "params.h"

namespace swin_fast {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u, kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;

// An attention weight is kept where its word is at least this.
SWIN_FAST_HOST_DEVICE inline uint32_t dropout_threshold(double p) { return uint32_t(p * 4294967296.0); }

}  // namespace swin_fast
