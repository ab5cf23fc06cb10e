"""The tuner over the calls of Swin models, one kind after another, so that a stop loses one kind and no more."""

from __future__ import annotations

from swin_fast.triton_kernels import tune, tuning

from .state import State

# (window, head_dim, dtype): Swin-T to L first, as far as time goes; then 384 pixels, V2, 3D, SwinIR
KINDS = [
    ("7x7", 32, "bf16"),
    ("7x7", 32, "fp16"),
    ("12x12", 32, "bf16"),
    *((window, 32, "bf16") for window in ("8x8", "16x16", "24x24", "8x7x7", "7x7x7")),
    ("8x8", 30, "bf16"),
    ("7x7x7", 16, "bf16"),
    ("7x7", 32, "fp32"),
    ("8x8", 32, "fp16"),
    ("12x12", 32, "fp16"),
]


def main(state: State, part: str) -> int:
    """What of `KINDS` an earlier run did not finish.

    The rows are not put into the package: it would no longer be the commit that is measured. The summary says how.
    """
    from swin_fast.triton_kernels import timing  # needs Triton

    timer, device, made_with = timing.on_this_gpu()
    failed, choices, gains, old = [], [], state.found(part), {}
    if state.tuned.is_file():
        old = {key: tuning.as_row(key, config) for key, config in tuning.read(state.tuned, device).items()}
    for window, head_dim, dtype in KINDS:
        (variant,) = tune.variants([window], [head_dim], [dtype])
        for backward in (False, True):
            step = f"{'backward' if backward else 'forward'}, {window}, head_dim {head_dim}, {dtype}"
            if step in state.done(part):
                continue
            try:
                choice = tune.choose(variant, backward, timer)
            except tuning.CannotRun as error:
                print(f"{step}: {error}", flush=True)
                failed.append(step)
                continue
            print(tune.describe(choice), flush=True)
            choices.append(choice)
            tuning.write(state.tuned, device, made_with, tune.merge(old, choices))
            gains[step] = round(choice.default_time / choice.time, 3)
            state.keep(part, gains)
            state.mark(part, step)
    return 1 if failed else 0
