"""Window attention in Triton: `window_attention` launches, `config` chooses block sizes; this imports neither."""
