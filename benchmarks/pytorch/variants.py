"""Execution variants of the PyTorch twin: independent switches that may make it faster."""

import dataclasses
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.pytorch.twin_losses import Loss

Step = Callable[..., Tensor]  # (image, label, weight=None) -> loss


@dataclasses.dataclass(frozen=True)
class Variant:
    """An execution variant; parameters, statistics, logits and losses are always float32."""

    bfloat16: bool = False  # runs the layers in bfloat16, by autocast
    channels_last: bool = False  # memory format of images, activations and kernels
    compile: str = ""  # mode of torch.compile, such as "default" or "max-autotune"; "": eager
    fused: bool = False  # Adam updates all parameters in one kernel

    def __str__(self) -> str:
        return " ".join(
            (
                f"compiled ({self.compile})" if self.compile else "eager",
                "channels_last" if self.channels_last else "NCHW",
                "bfloat16" if self.bfloat16 else "float32",
            )
        )

    def place(self, image: Tensor) -> Tensor:
        """Returns the image in this variant's memory format; a copy only if it differs."""
        return image.contiguous(memory_format=self._memory_format)

    def forward(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Returns a function image -> logits without gradients. Sets the model to evaluation."""
        run = self._compile(self._network(model.eval()))

        def forward(image: Tensor) -> Tensor:
            with torch.no_grad():
                return run(self.place(image))

        return forward

    def optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """Returns Adam for all parameters of the model, which must be on its device already."""
        return torch.optim.Adam(model.parameters(), learning_rate, fused=self.fused)

    def train_step(self, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer) -> Step:
        """Returns a function (image, label, weight or None) -> loss before the update.

        Sets the model to training mode.
        """
        network = self._network(model.train())
        run = self._compile(lambda image, *truth: loss(network(image), *truth))

        def step(image: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
            optimizer.zero_grad()
            value = run(self.place(image), label, weight)
            value.backward()
            optimizer.step()
            return value.detach()

        return step

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def _network(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        # PyTorch's type annotations lack this argument.
        model.to(memory_format=self._memory_format)  # pyrefly: ignore[no-matching-overload]

        def run(image: Tensor) -> Tensor:
            with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bfloat16):
                return model(image)

        return run

    def _compile(self, function: Callable) -> Callable:
        return torch.compile(function, mode=self.compile) if self.compile else function


def variants(compile: str = "default") -> list[Variant]:
    """Returns all combinations of eager/compiled, memory format and precision, with fused Adam."""
    return [
        Variant(*switches, fused=True)
        for switches in itertools.product((False, True), (False, True), ("", compile))
    ]
