"""Checkpoints of segmentation_models_pytorch: their names, and the fields that they show."""

import warnings

import pytest

from benchmarks import smp as beside_smp
from configs import base
from unet_jax.core.errors import UserError
from unet_jax.core.fields import add_defaults
from unet_jax.interchange import forms, pytorch
from unet_jax.interchange.torch_twin import smp as twin_smp
from unet_jax.models.network import NETWORKS


def state_of(encoder: str, **options):
    """The twin's tensors under smp's names; timm's encoders are wrapped there."""
    state = twin_smp.SmpUNet(3, 2, encoder, **options).state_dict()
    if encoder == "efficientnet_lite0":
        state = {name.replace("encoder.", "encoder.model.", 1): x for name, x in state.items()}
    return {name: x.numpy() for name, x in state.items()}


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50", "efficientnet_lite0"])
def test_the_fields_follow_from_the_tensors(encoder, tmp_path):
    state = state_of(encoder, width=4, depth=4)
    form = forms.recognise(tmp_path, state)
    found = forms.fields_of(state, form)
    expected = {"name": "smp_unet", "encoder": encoder, "width": 4, "depth": 4, "stride": 1}
    assert found == {f"model.{k}": v for k, v in (expected | {"classes": 2}).items()}


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_lite0"])
def test_layers_below_the_last_feature_are_left_out(encoder, tmp_path):
    """smp keeps the whole encoder, whatever the depth."""
    small = state_of(encoder, width=4, depth=3)
    deep = state_of(encoder, width=4, depth=5)
    unused = {name: x for name, x in deep.items() if name.startswith("encoder.")}
    form = forms.recognise(tmp_path, small)
    state = forms.without_unused(unused | small, form)
    assert state.keys() == small.keys() < (unused | small).keys()
    config = add_defaults(base.get_config(), NETWORKS["smp_unet"].options)
    config.update_from_flattened_dict(forms.fields_of(state, form))
    variables = pytorch.to_variables(tmp_path, state, form, config, channels=3)
    assert set(variables["params"]) == {"encoder", "decoder", "segmentation_head_0"}


def test_another_network_under_a_similar_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="only its encoder tu-tf_efficientnet_lite0"):
        forms.recognise(tmp_path, {"encoder.conv_stem.weight": None})


@pytest.mark.slow
@pytest.mark.parametrize("setting", beside_smp.SETTINGS)
@pytest.mark.parametrize("encoder", beside_smp.ENCODERS)
def test_logits_are_those_of_smp_itself(encoder, setting, tmp_path):
    """Where it is installed: `pip install segmentation-models-pytorch`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn
        pytest.importorskip("segmentation_models_pytorch", exc_type=ImportError)
        path = beside_smp.write_network(encoder, setting, tmp_path)
    _, largest, difference = beside_smp.compare_network(path)
    assert largest > 0.1
    assert difference < 1e-4 * max(1, largest)
