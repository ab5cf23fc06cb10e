// The op and its backward on CUDA tensors, as the schema in ops.py has them.
#pragma once

#include <string>
#include <tuple>

#include "../common/arguments.h"

namespace swin_fast {

std::tuple<Tensor, Tensor> window_attention_cuda(const Tensor& qkv, const OptionalTensor& bias_table,
                                                 const OptionalTensor& bias_index, const OptionalTensor& pad_qkv,
                                                 const OptionalTensor& mask, const OptionalTensor& logit_scale,
                                                 const OptionalTensor& dropout_seed, int64_t num_heads,
                                                 const Ints& window_size, const Ints& shift_size, double scale,
                                                 bool roll_then_pad, double mask_value, double dropout_p,
                                                 bool save_lse);

std::tuple<Tensor, Tensor, Tensor, Tensor> window_attention_backward_cuda(
    const Tensor& grad, const Tensor& lse, const Tensor& qkv, const OptionalTensor& bias_table,
    const OptionalTensor& bias_index, const OptionalTensor& pad_qkv, const OptionalTensor& mask,
    const OptionalTensor& logit_scale, const OptionalTensor& dropout_seed, int64_t num_heads, const Ints& window_size,
    const Ints& shift_size, double scale, bool roll_then_pad, double mask_value, double dropout_p, int64_t needs);

// 0: calls that the kernels take run here. 1: every call is handed on. Returns the one before.
int64_t set_cuda_mode(int64_t mode);

}  // namespace swin_fast
