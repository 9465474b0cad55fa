"""The PyTorch twin's training step and forward pass, as `benchmarks.timing` has JAX's."""

import functools
from collections.abc import Callable, Sequence

import torch

from benchmarks.pytorch import twin_losses
from benchmarks.pytorch.variants import Variant, variants
from benchmarks.timing import LEARNING_RATE, TASKS, Run, Settings, Sources
from unet_jax.interchange.torch_twin import twin


def device() -> torch.device:
    """Returns PyTorch's device: the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_runs(
    settings: Settings, variant: Variant, tasks: Sequence[str] = TASKS
) -> dict[str, Run]:
    """Builds the twin's runs in one of its variants, on the GPU if there is one."""
    target = device()
    # cuDNN then tries its algorithms for each convolution, as XLA does.
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    image, label = settings.make_batch()
    image = torch.tensor(image).permute(0, 3, 1, 2).contiguous().to(target)
    image, label = variant.place(image), torch.tensor(label).to(target)
    wait = torch.cuda.synchronize if target.type == "cuda" else lambda: None

    def timed(run: Callable, *arguments: torch.Tensor) -> Run:
        def once() -> None:
            run(*arguments)
            wait()

        return once

    def make(task: str) -> Run:
        model = twin.build(settings.channels, **settings.model).to(target)
        if task == "forward":
            return timed(variant.forward(model), image)
        optimizer = variant.optimizer(model, LEARNING_RATE)
        step = variant.train_step(model, twin_losses.build(**settings.loss), optimizer)
        return timed(step, image, label)

    return {task: make(task) for task in tasks}


def torch_sources(settings: Settings, mode: str, precisions: Sequence[str]) -> Sources:
    """Returns all variants of the twin at these precisions; `mode` is that of torch.compile."""
    sources: Sources = {}
    for variant in variants(mode):
        precision = "bfloat16" if variant.bfloat16 else "float32"
        if precision in precisions:
            name = str(variant).removesuffix(f" {precision}")
            sources["torch", name, precision] = functools.partial(torch_runs, settings, variant)
    return sources
