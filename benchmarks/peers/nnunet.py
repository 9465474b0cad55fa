"""nnU-Net v2, 2-D: its package's recipe, with a plan that fits the time (`nnunet_recipe`)."""

import pathlib
from collections.abc import Mapping
from typing import ClassVar

from benchmarks.peers.exchange import RECIPE
from benchmarks.peers.foreign import ForeignPeer
from benchmarks.peers.peer import RUN, Setting
from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json
from unet_jax.core.tuning import usable_cores


class NnUnet(ForeignPeer):
    """nnU-Net v2, as installed from its package. Its planning is not part of its time."""

    name = "nnunet"
    title = "nnU-Net v2, 2-D"
    environment = "nnunet"
    module = "benchmarks.peers.nnunet_recipe"
    share: ClassVar[float] = 0.0  # least share of an image that a window covers

    def prepare(self, setting: Setting) -> None:
        shared = setting.shared(self.name)
        if not (shared / RECIPE).exists():
            flags = [f"--seconds={60 * setting.minutes}", f"--share={self.share}"]
            self.run(setting, shared, "prepare", flags)

    def augments_test(self, folder: pathlib.Path) -> bool:
        return True  # nnU-Net mirrors by default

    def recipe(self, setting: Setting, folder: pathlib.Path) -> str:
        plan = read_json(setting.shared(self.name) / RECIPE)
        patch = "x".join(map(str, plan["patch_size"]))
        return (
            f"its plan for a memory of {plan['memory_gb']:g} GB and a width of {plan['width']}, "
            f"the largest that could take {plan['least_steps']} steps, or the smallest there is: "
            f"windows of {patch} ({plan['share']:.0%} of an image, whose resolution is divided by "
            f"{plan['spacing']:.3g}), batches of {plan['batch_size']}, {plan['stages']} stages, "
            f"{plan['seconds_per_step']:.3g} s a step without its input; polynomial learning rate "
            f"over the time, the last weights, the more probable class"
        )

    def variables(self, setting: Setting, folder: pathlib.Path) -> Mapping[str, str]:
        shared = setting.shared(self.name).absolute()
        return {
            "nnUNet_raw": str(shared / "raw"),
            "nnUNet_preprocessed": str(shared / "preprocessed"),
            "nnUNet_results": str(folder.absolute() / RUN),
            "nnUNet_n_proc_DA": str(usable_cores()),
            "nnUNet_def_n_proc": str(usable_cores()),
        }


class NnUnetLowres(NnUnet):
    """nnU-Net at a resolution at which its windows cover a quarter of an image.

    That is the rule of its own configuration 3d_lowres.
    """

    name = "nnunet_lowres"
    title = "nnU-Net v2, 2-D, lower resolution"
    share = 0.25

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        plan = read_json(setting.shared(self.name) / RECIPE)
        if plan["spacing"] == 1:
            raise UserError(
                f"its windows have {plan['share']:.0%} of an image at full resolution already, "
                f"which is the peer nnunet"
            )


class NnUnetWhole(NnUnetLowres):
    """nnU-Net at a resolution at which its windows cover a whole image."""

    name = "nnunet_whole"
    title = "nnU-Net v2, 2-D, whole images at a lower resolution"
    share = 1.0
