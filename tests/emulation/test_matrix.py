"""Matrix instructions against a plain product, through fragment tables as the PTX ISA lists them, and conversions."""

from __future__ import annotations

import pytest
import torch

HALVES = [torch.float16, torch.bfloat16]
LANES = [(lane // 4, lane % 4) for lane in range(32)]  # the ISA's groupID and threadID_in_group

# element i of a lane's fragment -> (row, column), as the ISA lists them
A_K16 = [[(g + 8 * (i % 4 // 2), 2 * t + i % 2 + 8 * (i // 4)) for i in range(8)] for g, t in LANES]
B_K16 = [[(2 * t + i % 2 + 8 * (i // 2), g) for i in range(4)] for g, t in LANES]
A_K8 = [[(g + 8 * (i // 2), 2 * t + i % 2) for i in range(4)] for g, t in LANES]
B_K8 = [[(2 * t + i, g) for i in range(2)] for g, t in LANES]
A_TF32 = [[(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)] for g, t in LANES]
B_TF32 = [[(t, g), (t + 4, g)] for g, t in LANES]
C = [[(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)] for g, t in LANES]


def fragment(matrix: torch.Tensor, table: list) -> torch.Tensor:
    rows, columns = torch.tensor(table).unbind(-1)
    return matrix[rows, columns].contiguous()


def multiply(standin, kernel: str, a, b, c, a_table, b_table, number: int = 0) -> torch.Tensor:
    pointers = [standin.memory(fragment(a, a_table), "a", read_only=True)[0]]
    pointers += [standin.memory(fragment(b, b_table), "b", read_only=True)[0]]
    pointers += [standin.memory(fragment(c, C), "c", read_only=True)[0]]
    address, d = standin.memory(fragment(c, C), "d", written=False)
    standin(kernel, *pointers, address, numbers=(number,))
    result = torch.full((16, 8), torch.nan)
    rows, columns = torch.tensor(C).unbind(-1)
    result[rows, columns] = d
    return result


def whole_numbers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(-8, 9, shape).to(dtype)  # products and sums are exact in every dtype


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("depth", [16, 8])
def test_16_bit_product(standin, dtype, depth):
    a, b, c = (
        whole_numbers(*s, dtype=t) for s, t in (((16, depth), dtype), ((depth, 8), dtype), ((16, 8), torch.float))
    )
    tables = (A_K16, B_K16) if depth == 16 else (A_K8, B_K8)
    got = multiply(standin, f"mma_k{depth}", a, b, c, *tables, number=HALVES.index(dtype))
    assert torch.equal(got, a.float() @ b.float() + c)


def test_tf32_product(standin):
    a, b, c = (whole_numbers(*s, dtype=torch.float32) for s in ((16, 8), (8, 8), (16, 8)))
    got = multiply(standin, "mma_tf32", a, b, c, A_TF32, B_TF32)
    assert torch.equal(got, a @ b + c)


def test_tf32_does_not_read_the_lower_13_bits(standin):
    a, b, c = torch.randn(16, 8), torch.eye(8), torch.zeros(16, 8)
    got = multiply(standin, "mma_tf32", a, b, c, A_TF32, B_TF32)
    assert torch.equal(got, (a.view(torch.int32) & ~0x1FFF).view(torch.float32))


def test_sums_are_cut_not_rounded(standin):
    a, b = torch.zeros(16, 16, dtype=torch.float16), torch.zeros(16, 8, dtype=torch.float16)
    a[:, 0], b[0] = 1, 2.0**-24
    a[:, 1], b[1] = 1, 2.0**-24 * 0.5  # 1 + 1.5 * 2**-24 is nearer to 1 + 2**-23
    for sign in (1, -1):
        got = multiply(standin, "mma_k16", a * sign, b, torch.full((16, 8), float(sign)), A_K16, B_K16)
        assert torch.equal(got, torch.full((16, 8), float(sign)))


@pytest.mark.parametrize("transpose", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(standin, count, transpose):
    matrices = torch.arange(count * 64, dtype=torch.int16).view(count, 8, 8)
    address = standin.memory(matrices, "matrices", read_only=True)[0]
    to, registers = standin.memory(torch.empty(32, count, 2, dtype=torch.int16), "registers", written=False)
    standin("ldmatrix", address, to, numbers=(count, transpose))
    expected = matrices.mT if transpose else matrices  # a lane has two neighbours of row lane / 4
    assert torch.equal(registers, expected.reshape(count, 32, 2).transpose(0, 1))


def test_movmatrix(standin):
    matrix = torch.arange(64, dtype=torch.int16).view(8, 8)
    address = standin.memory(matrix, "matrix", read_only=True)[0]
    to, registers = standin.memory(torch.empty(32, 2, dtype=torch.int16), "registers", written=False)
    standin("movmatrix", address, to)
    assert torch.equal(registers.view(8, 8), matrix.T)


def test_conversions_from_float32(standin):
    exponents = torch.randint(-150, 130, (4096,)).double()
    x = (torch.randn(4096).double() * 2**exponents).float()
    bits = torch.tensor([0x3F808000, 0x3F818000, 0x3F801000, 0x3F803000, 0x33000000, 0x33000001], dtype=torch.int32)
    ties = torch.cat([bits.view(torch.float32), torch.tensor([65519.0, 65520, 65504, 0, -0.0, torch.inf])])
    x[: len(ties)] = ties
    address = standin.memory(x, "x", read_only=True)[0]
    outs = [standin.memory(x.to(t), "out", written=False) for t in (torch.float16, torch.bfloat16, torch.float32)]
    standin("convert", address, *[a for a, _ in outs], blocks=32, threads=128)
    half, bfloat16, tf32 = (t for _, t in outs)
    assert torch.equal(half, x.half()) and torch.equal(bfloat16, x.bfloat16())
    finite = x.isfinite() & (x.abs() < 3e38)
    wide = x.double()[finite]
    spacing = 2.0 ** (torch.frexp(wide)[1] - 11)  # 10 bits behind the point
    normal = wide.abs() >= 2.0**-126
    nearest = torch.sign(wide) * torch.floor(wide.abs() / spacing + 0.5) * spacing  # ties away from zero
    assert torch.equal(tf32[finite].double()[normal], nearest[normal])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_conversions_to_float32(standin, dtype):
    x = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    address = standin.memory(x, "x", read_only=True)[0]
    to, wide = standin.memory(torch.empty(65536), "wide", written=False)
    standin("widen", address, to, numbers=(HALVES.index(dtype),), blocks=512, threads=128)
    assert torch.equal(wide.nan_to_num(7), x.float().nan_to_num(7)) and torch.equal(wide.isnan(), x.isnan())
