"""Importing the twins of the U-Net's variants: their names, and the fields that fit their files."""

import pytest
import torch
from milesial import UNet

from benchmarks.pytorch import matched
from unet_jax.core.errors import UserError
from unet_jax.interchange import forms, pytorch
from unet_jax.interchange.torch_twin import convert, twin
from unet_jax.runs.commandline import load_config

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

VARIANTS = {
    "attention_unet": "--config.model.name=attention_unet",
    "residual_unet": "--config.model.name=residual_unet",
    "unet_plus_plus": "--config.model.name=unet_plus_plus",
    "unet deep": "--config.model.deep_supervision=True",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_s_names_are_recognised(name, tmp_path):
    fields = matched.model_fields(name, classes=1)
    reference = twin.build(1, **fields)
    flags = [f"--config.model.{field}={value}" for field, value in fields.items()]
    config = load_config(["--config=configs/base.py", *flags])
    state = reference.state_dict()
    form = forms.recognise(tmp_path, state)
    assert form is forms.TWIN and pytorch.advice(state, form, config) == []
    variables = pytorch.to_variables(tmp_path, state, form, config, channels=1)
    again = convert.to_state_dict(variables, reference)
    for key, x in state.items():
        assert key.endswith("num_batches_tracked") or torch.equal(again[key], x), key


@pytest.mark.parametrize(("name", "flag"), VARIANTS.items())
def test_the_fields_that_fit_a_variant_s_file_are_named(name, flag):
    state = twin.build(1, **matched.model_fields(name, classes=1)).state_dict()
    config = load_config(["--config=configs/base.py"])
    config.model.width, config.model.depth = 4, 2
    assert pytorch.advice(state, forms.TWIN, config) == [flag]


@pytest.mark.parametrize("name", ["attention_unet", "residual_unet", "unet_plus_plus"])
def test_a_file_of_milesial_does_not_fit_a_variant(name, tmp_path):
    config = load_config(["--config=configs/base.py", f"--config.model.name={name}"])
    config.model.width, config.data.input_range = 2, "unit"
    state = UNet(1, 1, width=2).state_dict()
    with pytest.raises(UserError, match=r"this file needs --config\.model\.name=unet$"):
        pytorch.to_variables(tmp_path, state, forms.MILESIAL, config, channels=1)
