"""The parts of a measurement, at full size and at the tiny size of `--smoke`."""

import dataclasses
from typing import Any

KINDS = {
    "speed": "Speed against PyTorch",
    "roofline": "Share of the roofline by layer",
    "input_pipeline": "Input pipeline and training step",
    "memory": "Peak memory",
    "training": "Training of ISBI",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One part, which runs in a process of its own."""

    kind: str  # a key of `KINDS`, and a module of this package with a function `measure`
    name: str
    limit: float  # longest time, seconds
    settings: dict[str, Any]


def speed(width: int, precision: str, limit: float, **network: Any) -> Part:
    """Returns a part that times one network; `network` overrides its size and the rounds."""
    full = {"depth": 4, "batch": 16, "size": 512, "compile": "default"}
    timed = {"rounds": 7, "seconds": 2.0, "stage_seconds": 45.0}
    settings = full | timed | {"width": width, "precision": precision} | network
    return Part("speed", f"width {width}, {precision}", limit, settings)


def roofline(width: int, precision: str, limit: float, **sizes: Any) -> Part:
    """Returns a part that profiles one network; `sizes` override those of what is measured."""
    full = {"depth": 4, "batch": 16, "size": 512, "matrix": 8192, "copied": 2**31, "seconds": 1.0}
    settings = full | {"width": width, "precision": precision} | sizes
    return Part("roofline", f"width {width}, {precision}", limit, settings)


def memory(width: int, precision: str, limit: float, **network: Any) -> list[Part]:
    """Returns the parts that measure one network's memory, in both frameworks."""
    full: dict[str, Any] = {"depth": 4, "batch": 16, "size": 512, "compile": "default"} | network
    variants = [("jax", "compiled", "")]
    if full["compile"]:
        variants.append(("torch", "compiled channels_last", full["compile"]))
    variants.append(("torch", "eager channels_last", ""))
    parts = []
    for framework, variant, mode in variants:
        for task in ("train", "forward"):
            settings = {"framework": framework, "variant": variant, "task": task}
            settings = full | {"width": width, "precision": precision} | settings
            name = f"{framework} {variant}, {task}, width {width}, {precision}"
            parts.append(Part("memory", name, limit, settings | {"compile": mode}))
    return parts


def full() -> list[Part]:
    """Returns the parts at full size, the most important first."""
    isbi = {
        "log.every_steps": 6,  # an epoch
        "eval.every_epochs": 10,
        "checkpoint.every_epochs": 50,
    }
    feed = {"steps": 24, "rounds": 7, "workers": 0, "side": 512, "batch": 4, "fields": {}}
    return [
        speed(64, "bfloat16", 180),
        roofline(64, "bfloat16", 75),
        Part("input_pipeline", "configs/isbi.py", 100, feed),
        *memory(64, "bfloat16", 40),
        Part("training", "configs/isbi.py", 100, {"side": 512, "batch": 4, "fields": isbi}),
        speed(16, "bfloat16", 150),
        speed(64, "float32", 150),
        speed(16, "float32", 150),
        roofline(64, "float32", 75),
        roofline(16, "bfloat16", 75),
        *memory(64, "float32", 40),
    ]


def smoke() -> list[Part]:
    """Returns the same parts at sizes of seconds on a CPU; memory of two tasks of the four."""
    network: dict[str, Any] = {"depth": 1, "batch": 2, "size": 16}
    quick = {"rounds": 2, "seconds": 0.02, "stage_seconds": 0.0, "compile": ""}
    isbi = {
        "data.size": 32,
        "model.width": 2,
        "model.depth": 1,
        "num_epochs": 2,
        "eval.every_epochs": 1,
        "log.every_steps": 6,
    }
    feed = {"steps": 3, "rounds": 2, "workers": 1, "side": 64, "batch": 4, "fields": isbi}
    jax_train, *_, torch_forward = memory(2, "float32", 120, **network, compile="")
    return [
        speed(2, "float32", 120, **network, **quick),
        roofline(2, "float32", 120, **network, matrix=64, copied=2**16, seconds=0.02),
        Part("input_pipeline", "configs/isbi.py", 120, feed),
        jax_train,
        torch_forward,
        Part("training", "configs/isbi.py", 120, {"side": 64, "batch": 4, "fields": isbi}),
    ]
