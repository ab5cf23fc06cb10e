"""CUDA kernels executed on a CPU: their own sources, compiled by g++ against a small stand-in for the CUDA runtime.

`runtime/` is the stand-in: the threads of a block are fibers, barriers and warp collectives wait for their threads, and
every load and store of the kernels is checked against shadows of shared and global memory. `include/` holds what the
kernels include: the language's words, and the primitives of ptx.cuh. `compiler.py` builds, `machine.py` runs.

Blocks, warps and lanes run in a random order. The seed is printed, and SWIN_FAST_EMULATION_SEED sets it.
"""
