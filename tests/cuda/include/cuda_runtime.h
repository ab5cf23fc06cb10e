// What the boundary names of CUDA's runtime, for a compiler without the toolkit; nothing of it is ever called.
#pragma once

#define CUDART_VERSION 13000

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = struct CUstream_st*;
