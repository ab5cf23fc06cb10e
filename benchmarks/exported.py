"""A model exported to ONNX once, and run by ONNX Runtime or OpenVINO: what somebody without PyTorch uses on a CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

# where exports are kept, so that every process of a run has the same; else they last as long as the process
FOLDER_VARIABLE = "SWIN_FAST_BENCHMARK_EXPORTS"
ENGINES = ("onnxruntime", "openvino")
_own_folder: list[tempfile.TemporaryDirectory] = []


def export(name: str, model: nn.Module, image: Tensor) -> Path:
    """The file of `model` for inputs like `image`. ImportError where a library for it is missing."""
    import onnx  # noqa: F401
    import onnxscript  # noqa: F401

    file = _folder() / f"{name}-{'x'.join(map(str, image.shape))}.onnx"
    if not file.exists():
        part = file.with_name(f"{os.getpid()}-{file.name}")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            torch.onnx.export(
                model.eval(), (image,), str(part), dynamo=True, external_data=False, verbose=False
            )  # fmt: skip
        part.replace(file)
    return file


def _folder() -> Path:
    if FOLDER_VARIABLE in os.environ:
        return Path(os.environ[FOLDER_VARIABLE])
    if not _own_folder:
        _own_folder.append(tempfile.TemporaryDirectory())
    return Path(_own_folder[0].name)


def onnxruntime_call(file: Path, image: Tensor, threads: int):
    """A call that gives the first output; the file is in float32, and so are the products."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: image.float().numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def openvino_call(file: Path, image: Tensor, threads: int, dtype: torch.dtype):
    """The same by OpenVINO, whose products are in `dtype` where the processor has them: float32 or bfloat16."""
    import openvino

    precision = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    config = {
        "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    request = openvino.Core().compile_model(str(file), "CPU", config).create_infer_request()
    array = image.float().numpy()

    def call() -> Tensor:
        return torch.from_numpy(next(iter(request.infer([array], share_inputs=True, share_outputs=True).values())))

    return call
