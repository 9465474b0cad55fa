"""Speed of the training step and the forward pass against all variants of the PyTorch twin.

Variants are timed as by `benchmarks.speed`. Those that PyTorch compiles, which takes longest, come
last, one by one: after each, all that are ready are timed again, interleaved, so that a part that
runs out of time still has a comparison.
"""

from typing import Any

from benchmarks.accelerator.probe import torch_problem
from benchmarks.accelerator.record import OUT_OF_TIME, Recorder
from benchmarks.timing import (
    KEYS,
    LOSS,
    MODEL,
    Settings,
    Sources,
    jax_sources,
    prepare,
    ratios,
    reason,
    time_runs,
)


def settings_of(settings: dict[str, Any]) -> Settings:
    """Returns what is timed at a part's `width`, `depth`, `batch` and `size`."""
    model = {"name": "unet", "width": settings["width"], "depth": settings["depth"], **MODEL}
    return Settings(model, LOSS, channels=1, batch=settings["batch"], size=settings["size"])


def stages_of(chosen: Settings, precision: str, mode: str) -> list[Sources]:
    """Returns the variants in the order in which they are prepared; `mode` is torch.compile's."""
    stages = [jax_sources(chosen, [precision])]
    if torch_problem():
        return stages
    from benchmarks.pytorch.runs import torch_sources

    twin = torch_sources(chosen, mode, [precision])
    # channels_last first: it is usually the faster one.
    for source in sorted(twin, key=lambda key: "channels_last" not in key[1]):
        if "compiled" in source[1]:
            stages.append({source: twin[source]})
        else:
            stages[0][source] = twin[source]
    return stages


def measure(settings: dict[str, Any], recorder: Recorder) -> None:
    """Times all variants at one width and precision, and records rows and ratios."""
    chosen, precision = settings_of(settings), settings["precision"]
    stages = stages_of(chosen, precision, settings["compile"])
    runs, rows, failed = {}, [], []
    if problem := torch_problem():
        failed.append(_row(("torch", "all", precision), problem))
    for number, stage in enumerate(stages):
        skipped = [_row(key, OUT_OF_TIME) for later in stages[number:] for key in later]
        about = {"width": settings["width"]}
        recorder.write([about | row for row in rows + failed + skipped])
        if recorder.remaining < settings["stage_seconds"]:
            return
        ready, broken = prepare(stage)
        failed += broken
        try:
            rows = time_runs(runs | ready, chosen.batch, settings["rounds"], settings["seconds"])
            runs |= ready
        except Exception as error:  # out of memory while all variants are kept
            failed += [_row(key, reason(error)) for key in {key[:3] for key in ready}]
        ratio = ratios(rows, precision)
        recorder.write(
            [about | row for row in rows + failed + skipped[len(stage) :]],
            train=ratio["train"],
            forward=ratio["forward"],
        )


def _row(source: tuple[str, ...], why: str) -> dict[str, Any]:
    return dict(zip(KEYS, source, strict=False)) | {"failed": why}
