"""Launches the kernels: what runs for a call is decided by `plan`, from a description without data."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from math import inf, prod

import torch
from torch import Tensor

from . import tuning
from .config import ITEM_SIZE, Config, Variant, alignment, columns, is_whole
from .reduction import sum_by_row, sum_over_programs
from .tiles import LOG2E, LOWEST
from .window_attention_backward import window_attention_backward
from .window_attention_backward_bias import window_attention_backward_bias
from .window_attention_backward_tiled import window_attention_backward_keys, window_attention_backward_queries
from .window_attention_forward import window_attention_forward

NAMES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64",
    torch.int64: "i64", torch.int32: "i32",
}  # fmt: skip
BLOCK = 256  # entries of a partial sum that one program of a reduction adds up
QKV, BIAS, PAD, SCALE = 1, 2, 4, 8  # bits of `needs`


@dataclass(frozen=True)
class Launch:
    """One kernel as it is launched, and as it can be compiled ahead of time."""

    kernel: object
    signature: dict  # argument -> Triton's type; "constexpr" also for a tensor that is not there
    constexprs: dict
    grid: tuple[int, ...]
    num_warps: int
    num_stages: int
    max_registers: int = 0

    def attrs(self) -> dict:
        """For ahead-of-time compilation: every tensor begins at a multiple of 16 bytes, as torch allocates them."""
        names = list(self.signature)
        return {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if self.signature[n].startswith("*")}

    def options(self, backend: str = "hip" if torch.version.hip else "cuda") -> dict:
        """What the compiler is told, ahead of time and at run time; `backend` is that of Triton's GPUTarget."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}
        return options | ({"maxnreg": self.max_registers} if self.max_registers and backend == "cuda" else {})

    def run(self, arguments: dict) -> None:
        given = {name: arguments[name] for name, kind in self.signature.items() if kind != "constexpr"}
        self.kernel[self.grid](**given, **self.constexprs, **self.options())


def _tiles(length: int, block: int) -> int:
    return -(-length // block)


def _groups(items: int, programs: int) -> int:
    """Programs that share `items` evenly, at most `programs`: with as many rounds, no more than are needed."""
    return _tiles(items, _tiles(items, max(1, programs))) if items else 1


def _pointers(v: Variant, backward: bool, needs: int, save_lse: bool) -> dict:
    """Triton's type of each tensor argument of the attention kernels, None for one that is not there."""
    return {
        "p_qkv": v.dtype,
        "p_table": v.table,
        "p_index": v.index,
        "p_pad": v.dtype if v.pad else None,
        "p_mask": v.mask,
        "p_logit_scale": v.logit_scale,
        "p_seed": "i64" if v.dropout else None,
        "p_out": v.dtype,
        "p_lse": "fp32" if save_lse else None,
        "p_grad": v.dtype,
        "p_stats": "fp32",
        "p_grad_qkv": v.dtype if needs & QKV else None,
        "p_bias_sums": "fp32" if v.table and needs & BIAS else None,
        "p_pad_sums": "fp32" if v.pad and needs & PAD else None,
        "p_scale_sums": "fp32" if v.logit_scale and needs & SCALE else None,
    }


def _constants(v: Variant, c: Config) -> dict:
    w0, w1, w2 = v.window
    return dict(
        W0=w0, W1=w1, W2=w2, D=v.head_dim, BLOCK_M=c.block_m, BLOCK_N=c.block_n, BLOCK_D=v.block_d,
        WHOLE=is_whole(v, c), PADDED=v.padded, SHIFTED=v.shifted, DROPOUT=v.dropout, ROLL_THEN_PAD=v.roll_then_pad,
        ALIGN=v.align, LARGE=v.large, PRECISION="tf32" if v.tf32 else "ieee",
    )  # fmt: skip


FLOATS = ("scale", "seam_value", "keep_scale")


def _launch(kernel, pointers: dict, constants: dict, programs: tuple[int, ...], *options: int) -> Launch:
    signature, constexprs = {}, {}
    for name in kernel.arg_names:
        kind = pointers.get(name)
        if name in constants or (name.startswith("p_") and kind is None):
            signature[name], constexprs[name] = "constexpr", constants.get(name)
        else:
            signature[name] = f"*{kind}" if kind else "fp32" if name in FLOATS else "i32"
    return Launch(kernel, signature, constexprs, programs, *options)


@dataclass(frozen=True)
class Plan:
    """The kernels of one call by the step they do, and the number of programs that share the windows in each."""

    launches: dict[str, Launch]
    groups: dict[str, int]
    some_heads: int = 1  # whose bias gradient is summed at a time, where windows have several tiles


@lru_cache(maxsize=256)
def plan(
    v: Variant, c: Config, backward: bool, needs: int = 15, save_lse: bool = False, multiprocessors: int = 132
) -> Plan:
    """What runs for a call. Pure: needs no tensors and no GPU."""
    programs = multiprocessors * c.programs_per_sm
    pointers, constants, whole = _pointers(v, backward, needs, save_lse), _constants(v, c), is_whole(v, c)
    q_tiles, k_tiles = (1, 1) if whole else (_tiles(v.tokens, c.block_m), _tiles(columns(v), c.block_n))
    launches, groups = {}, {}

    def add(step: str, kernel, items: int, heads: int = v.heads, tiles: int = 1) -> None:
        groups[step] = _groups(items, programs // (heads * tiles))
        grid = (groups[step] * heads * tiles,)
        launches[step] = _launch(kernel, pointers, constants, grid, c.num_warps, c.num_stages, c.max_registers)

    def reduce(step: str, outer: int, entries: int, total: str) -> None:
        kinds = {"p_sums": "fp32", "p_total": total}
        launches[step] = _launch(sum_over_programs, kinds, {"BLOCK": BLOCK}, (_tiles(entries, BLOCK), outer), 4, 1)

    if not backward:
        add("forward", window_attention_forward, v.windows * q_tiles)
        return Plan(launches, groups)
    bias, pad, scale = (pointers[name] for name in ("p_bias_sums", "p_pad_sums", "p_scale_sums"))
    some_heads = v.heads
    if whole:
        add("backward", window_attention_backward, v.windows)
        groups |= dict.fromkeys(("bias", "pad", "scale"), groups["backward"])
    else:
        add("queries", window_attention_backward_queries, v.windows * q_tiles)
        groups["scale"] = groups["queries"]
        if needs & QKV or pad:
            add("keys", window_attention_backward_keys, v.windows * k_tiles)
            groups["pad"] = groups["keys"]
        if bias:
            most = max(1, programs // (q_tiles * k_tiles))
            some_heads = max(h for h in range(1, v.heads + 1) if v.heads % h == 0 and h <= most)
            add("bias", window_attention_backward_bias, v.windows, some_heads, q_tiles * k_tiles)
    if bias:
        by_row = not whole or v.index is not None  # else each program has summed by row already
        reduce("sum bias", some_heads, v.tokens**2 if by_row else v.rows, "fp32" if by_row else v.table)
        if by_row:
            kinds = {"p_pairs": "fp32", "p_order": "i64", "p_first": "i64", "p_total": v.table}
            launches["sum rows"] = _launch(sum_by_row, kinds, {"BLOCK": BLOCK}, (v.rows, some_heads), 4, 1)
    if pad:
        reduce("sum pad", 2 * v.heads, v.head_dim, v.dtype)
    if scale:
        reduce("sum scale", v.heads, 1, v.logit_scale)
    return Plan(launches, groups, some_heads)


def specialisations(
    v: Variant, c: Config, backward: bool, needs: int = 15, save_lse: bool = False, multiprocessors: int = 132
) -> list[Launch]:
    """The kernels of a call in the order they run, as they are launched."""
    return list(plan(v, c, backward, needs, save_lse, multiprocessors).launches.values())


def bytes_per_token(v: Variant, c: Config, backward: bool, needs: int = 15, multiprocessors: int = 132) -> float:
    """Bytes that the kernels of a call read and write per token of the map, counted from what they load and store.

    A byte counts each time a kernel asks for it, also where a cache will answer, but for the bias table, which is a few
    KiB. Of windows of several tiles each tile of queries reads all keys.
    """
    p, size, tokens = plan(v, c, backward, needs, False, multiprocessors), ITEM_SIZE[v.dtype], v.tokens
    channels, whole = v.heads * v.head_dim * size, is_whole(v, c)
    q_tiles, k_tiles = (1, 1) if whole else (_tiles(tokens, c.block_m), _tiles(columns(v), c.block_n))
    row, mask = 12 * v.heads, 4 * tokens * v.heads if v.mask else 0  # max, 1 / sum and inner product; mask in float32
    if v.mask and v.mask != "fp32":
        mask //= 2
    if not backward:
        return channels * (1 + 2 * q_tiles + 1) + mask
    total = 0.0
    if "backward" in p.launches:
        total += channels * (4 + 3 * bool(needs & QKV)) + mask
    if "queries" in p.launches:
        passes = 1 + bool(needs & (QKV | SCALE))
        total += channels * (2 + 2 * q_tiles * passes + bool(needs & QKV)) + row + mask * passes
    if "keys" in p.launches:
        total += channels * (2 + 2 * k_tiles + 2 * bool(needs & QKV)) + row * k_tiles + mask
    if "bias" in p.launches:
        total += channels * 2 * (q_tiles + k_tiles) + row * k_tiles + mask
    shared = 0  # partial sums are written once and read once
    for step, entries in (("bias", None), ("pad", 2 * v.head_dim), ("scale", 1)):
        if f"sum {step}" in p.launches:
            if entries is None:
                entries = tokens**2 if "sum rows" in p.launches else v.rows
            shared += 2 * 4 * entries * v.heads * p.groups[step]
    return total + shared / max(1, v.batch * prod(v.grid))


@lru_cache(maxsize=16)
def _device(device: torch.device) -> tuple[str, int]:
    """Name and number of multiprocessors; for the interpreter a few, so that programs share windows there, too."""
    if device.type != "cuda":
        return "", 4
    properties = torch.cuda.get_device_properties(device)
    return properties.name, properties.multi_processor_count


def _on(device: torch.device):
    """Triton launches on the current device, whatever device the tensors are on; entering one costs a little."""
    other = device.type == "cuda" and device.index != torch.cuda.current_device()
    return torch.cuda.device(device) if other else nullcontext()


def _axes(values, fill: int) -> tuple[int, int, int]:
    return (fill,) * (3 - len(values)) + tuple(int(x) for x in values)


def _meta(t: Tensor | None) -> tuple | None:
    return None if t is None else (t.shape, t.stride(), NAMES[t.dtype])


def _reach(meta: tuple) -> int:
    """Elements from the first to the last of an image of qkv or the gradient, or of a window's mask."""
    return sum((n - 1) * s for n, s in zip(meta[0][1:], meta[1][1:], strict=True)) + 1


@lru_cache(maxsize=256)
def _describe(
    qkv: tuple, grad: tuple | None, table: tuple | None, index: str | None, pad: bool, mask: tuple | None,
    logit_scale: str | None, heads: int, window: tuple, shift: tuple, scale: float, roll_then_pad: bool,
    mask_value: float, dropout_p: float, tf32: bool,
) -> tuple[Variant, dict]:  # fmt: skip
    """The kind of a call, and its numbers by the kernels' names. Tensors are (shape, strides, dtype)."""
    (batch, *grid, channels), strides, dtype = qkv
    stride = (strides[0], *_axes(strides[1:-1], 0))
    grad_stride = () if grad is None else (grad[1][0], *_axes(grad[1][1:-1], 0))
    reach = max(_reach(t) for t in (qkv, grad, mask) if t is not None)
    v = Variant(
        dtype, _axes(window, 1), _axes(grid, 1), _axes(shift, 0), batch, heads, channels // (3 * heads),
        table=table and table[2], rows=table[0][0] if table else 0, index=index, mask=mask and mask[2],
        logit_scale=logit_scale, pad=pad, dropout=dropout_p > 0, roll_then_pad=roll_then_pad,
        align=alignment(*stride, *grad_stride), large=max(reach, prod(grid) * channels) >= 2**31, tf32=tf32,
    )  # fmt: skip
    numbers = dict(
        windows=v.windows, heads=heads, table_rows=v.rows, mask_windows=mask[0][0] if mask else 1,
        scale=(1.0 if logit_scale else scale) * LOG2E.value,
        seam_value=mask_value if mask_value == -inf else max(mask_value * LOG2E.value, LOWEST.value),
        keep_threshold=int(dropout_p * 2**32) - 2**31, keep_scale=1 / (1 - dropout_p),
    )  # fmt: skip
    numbers["table_stride"], numbers["table_head_stride"] = table[1] if table else (0, 0)
    for name, values in (("grid", v.grid), ("shift", v.shift), ("mask_stride", mask[1] if mask else (0, 0, 0))):
        numbers |= {f"{name}_{i}": value for i, value in enumerate(values)}
    for name, values in (("stride", stride), ("grad_stride", grad_stride)):
        numbers |= {f"{name}_{axis}": value for axis, value in zip("b012", values, strict=False)}
    return v, numbers


class _Call:
    """The op's arguments as the kernels take them."""

    def __init__(
        self, qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
        roll_then_pad, mask_value, dropout_p, grad=None, config=None,
    ):  # fmt: skip
        qkv, grad = (t if t is None or t.stride(-1) == 1 else t.contiguous() for t in (qkv, grad))
        small = (bias_index, pad_qkv, logit_scale)
        bias_index, pad_qkv, logit_scale = (None if t is None else t.contiguous() for t in small)
        self.backward = grad is not None
        self.variant, numbers = _describe(
            _meta(qkv), _meta(grad), _meta(bias_table), None if bias_index is None else NAMES[bias_index.dtype],
            pad_qkv is not None, _meta(mask), None if logit_scale is None else NAMES[logit_scale.dtype], num_heads,
            tuple(window_size), tuple(shift_size), scale, roll_then_pad, mask_value, dropout_p,
            qkv.dtype == torch.float32 and _tf32(),
        )  # fmt: skip
        name, self.multiprocessors = _device(qkv.device)
        self.config = config or tuning.config(self.variant, self.backward, name)
        self.arguments = numbers | dict(
            p_qkv=qkv, p_grad=grad, p_table=bias_table, p_index=bias_index, p_pad=pad_qkv, p_mask=mask,
            p_logit_scale=logit_scale, p_seed=seed,
        )  # fmt: skip

    def plan(self, needs: int = 15, save_lse: bool = False) -> Plan:
        return plan(self.variant, self.config, self.backward, needs, save_lse, self.multiprocessors)


def _tf32() -> bool:
    """Whether PyTorch lets its own float32 matrix products round their inputs to TF32."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def _order(index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    flat = index.flatten().long()
    by_row, order = torch.where(flat < 0, flat + rows, flat).sort(stable=True)
    return order, torch.searchsorted(by_row, torch.arange(rows + 1, device=index.device))


def _standard_index(window: tuple[int, int, int], device: torch.device) -> Tensor:
    """`geometry.relative_position_index`, made on the device, because a CUDA graph cannot copy it there."""
    t = torch.arange(prod(window), device=device)
    _, w1, w2 = window
    code = (t // (w1 * w2) * (2 * w1 - 1) + t // w2 % w1) * (2 * w2 - 1) + t % w2
    return code[:, None] - code + code[-1]


# (window, device), or the id of an index with (weakref, version, rows), -> order; sorting costs more than small kernels
_standard_orders: dict[tuple, tuple[Tensor, Tensor]] = {}
_given_orders: dict[int, tuple] = {}


def _pairs_by_row(index: Tensor | None, v: Variant, device: torch.device) -> tuple[Tensor, Tensor]:
    """The (query, key) pairs i * N + j sorted by the table row they read, and where each row's begin."""
    # what is made while a CUDA graph is captured has no values until the graph is replayed, so it is not kept
    keep = device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
    if index is None:
        key = v.window, device
        order = _standard_orders.get(key) or _order(_standard_index(v.window, device), v.rows)
        return _standard_orders.setdefault(key, order) if keep else order
    known = _given_orders.get(id(index))
    if known is not None and known[0]() is index and known[1:3] == (index._version, v.rows):
        return known[3]
    order, key = _order(index, v.rows), id(index)
    if keep:
        reference = weakref.ref(index, lambda _: _given_orders.pop(key, None))
        _given_orders[key] = reference, index._version, v.rows, order
    return order


def forward(
    qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
    roll_then_pad, mask_value, dropout_p, save_lse, *, config: Config | None = None,
):  # fmt: skip
    """`swin_fast::window_attention`: (out, lse), lse empty unless save_lse. Arguments are taken as already checked.

    `config` takes the place of the tuned one.
    """
    batch, *grid, channels = qkv.shape
    out = qkv.new_empty((batch, *grid, channels // 3))
    lse = qkv.new_empty((batch, num_heads, *grid) if save_lse else (0,), dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    call = _Call(
        qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
        roll_then_pad, mask_value, dropout_p, config=config,
    )  # fmt: skip
    steps = call.plan(save_lse=save_lse)
    with _on(qkv.device):
        steps.launches["forward"].run({**call.arguments, "p_out": out, "p_lse": lse, "groups": steps.groups["forward"]})
    return out, lse


def backward(
    grad, lse, qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
    roll_then_pad, mask_value, dropout_p, needs, *, config: Config | None = None,
):  # fmt: skip
    """`swin_fast::window_attention_backward`: the gradients whose bits are set in `needs`, the others empty.

    The softmax is computed again from qkv, so lse is not read: a rounded one would be one error shared by a whole row.
    """
    wanted = (qkv, bias_table, pad_qkv, logit_scale)
    needs = sum(1 << i for i, t in enumerate(wanted) if t is not None and needs >> i & 1)
    make = torch.zeros_like if qkv.numel() == 0 else torch.empty_like
    d_qkv, d_table, d_pad, d_scale = grads = tuple(
        make(t, memory_format=torch.contiguous_format) if needs >> i & 1 else qkv.new_empty(0)
        for i, t in enumerate(wanted)
    )
    if qkv.numel() == 0 or not needs:
        return grads
    call = _Call(
        qkv, bias_table, bias_index, pad_qkv, mask, logit_scale, seed, num_heads, window_size, shift_size, scale,
        roll_then_pad, mask_value, dropout_p, grad, config,
    )  # fmt: skip
    v, steps = call.variant, call.plan(needs)

    def floats(*shape: int) -> Tensor:
        return qkv.new_empty(shape, dtype=torch.float32)

    def step(name: str, **more) -> None:
        if name in steps.launches:
            steps.launches[name].run({**call.arguments, **buffers, "groups": steps.groups.get(name), **more})

    buffers = {"p_grad_qkv": d_qkv}
    some, groups = steps.some_heads, steps.groups
    by_row = "sum rows" in steps.launches
    entries = v.tokens**2 if by_row else v.rows
    if needs & BIAS:
        buffers["p_bias_sums"] = floats(some, groups["bias"], entries)
    if needs & PAD:
        buffers["p_pad_sums"] = floats(2 * v.heads, groups["pad"], v.head_dim)
    if needs & SCALE:
        buffers["p_scale_sums"] = floats(v.heads, groups["scale"], 1)
    if "queries" in steps.launches:
        buffers["p_stats"] = floats(v.windows, v.heads, 3, v.tokens)
    with _on(qkv.device):
        for name in ("backward", "queries", "keys"):
            step(name)
        if needs & BIAS:
            sums = dict(p_sums=buffers["p_bias_sums"], entries=entries, groups=groups["bias"])
            for first in range(0, v.heads, some):
                step("bias", first_head=first, some_heads=some)
                part = d_table[:, first:]
                if by_row:
                    pairs, (order, row_first) = floats(some, entries), _pairs_by_row(bias_index, v, qkv.device)
                    step("sum bias", p_total=pairs, outer_stride=entries, entry_stride=1, **sums)
                    step(
                        "sum rows", p_pairs=pairs, p_order=order, p_first=row_first, p_total=part, pairs=entries,
                        out_stride=v.heads,
                    )  # fmt: skip
                else:
                    step("sum bias", p_total=part, outer_stride=1, entry_stride=v.heads, **sums)
        if needs & PAD:
            d_pad.zero_()  # a padded query's output is cut off, so its q gets no gradient
            parts = d_pad[qkv.shape[-1] // 3 :]
            step(
                "sum pad", p_sums=buffers["p_pad_sums"], p_total=parts, entries=v.head_dim, groups=groups["pad"],
                outer_stride=v.head_dim, entry_stride=1,
            )  # fmt: skip
        if needs & SCALE:
            step(
                "sum scale", p_sums=buffers["p_scale_sums"], p_total=d_scale, entries=1, groups=groups["scale"],
                outer_stride=1, entry_stride=1,
            )  # fmt: skip
    return grads
