// Window coordinates <-> map coordinates: the pad, the roll and the seam mask as arithmetic instead of as tensors.
#pragma once

#include "params.h"

namespace swin_fast {

struct AxisToken {
  int64_t position;  // on the map, or -1 for padding
  int seam;          // 1 if the roll brought it here from the other side
};

// Token t of window w along one axis. `Int` is what is computed in: 64 bits are slow on a GPU.
template <class Int>
SWIN_FAST_HOST_DEVICE inline AxisToken axis_token(const Geometry& g, int axis, Int w, Int t) {
  const Int grid = Int(g.grid[axis]), window = Int(g.window[axis]), shift = Int(g.shift[axis]);
  const Int padded = Int(g.count[axis]) * window, rolled = w * window + t;
  // The seam is where the libraries draw it: timm (roll_then_pad) measures it on the padded map, too.
  const int seam = shift > 0 && rolled >= padded - shift;
  const Int ring = g.roll_then_pad ? grid : padded;
  if (rolled >= ring) return {-1, seam};
  Int position = rolled + shift;
  while (position >= ring) position -= ring;  // more than once only on a map smaller than the shift
  return {position < grid ? position : -1, seam};
}

// For each token of window `w` of an image: its position on the map (row-major, -1 for padding) and its region number.
// Tokens of different regions do not attend to each other. Returns whether more than one region or any padding occurs.
struct WindowKind {
  bool seam, pad;
};

inline WindowKind window_tokens(const Geometry& g, int64_t w, int64_t* position, int32_t* region) {
  const int64_t at[3] = {w / (g.count[1] * g.count[2]), w / g.count[2] % g.count[1], w % g.count[2]};
  WindowKind kind = {false, false};
  int64_t t = 0;
  for (int64_t z = 0; z < g.window[0]; ++z) {
    const AxisToken a = axis_token(g, 0, at[0], z);
    for (int64_t y = 0; y < g.window[1]; ++y) {
      const AxisToken b = axis_token(g, 1, at[1], y);
      for (int64_t x = 0; x < g.window[2]; ++x, ++t) {
        const AxisToken c = axis_token(g, 2, at[2], x);
        const bool pad = a.position < 0 || b.position < 0 || c.position < 0;
        position[t] = pad ? -1 : (a.position * g.grid[1] + b.position) * g.grid[2] + c.position;
        region[t] = a.seam * 4 + b.seam * 2 + c.seam;
        kind.pad |= pad;
        kind.seam |= region[t] != region[0];
      }
    }
  }
  return kind;
}

}  // namespace swin_fast
