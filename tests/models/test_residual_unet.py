"""The residual U-Net: its blocks by hand, their number, and how far a logit sees."""

import jax
import numpy as np
import pytest
from made_networks import images, make, shapes, variables_of

from unet_jax.core.errors import UserError
from unet_jax.models.residual_unet import ResidualBlock


def convolve(x, kernel, stride=1):
    """3x3 convolution by numpy, with one zero on every side."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcyx,yxcf->nhwf", windows[:, ::stride, ::stride], kernel)


@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (4, 1), (4, 2), (3, 2)])
def test_a_block_adds_its_shortcut(channels, stride):
    block = ResidualBlock(4, stride, norm="none")
    x = images(0, 2, 4, 6, channels)
    layers = jax.eval_shape(lambda: block.init(jax.random.key(0), x, False))["params"]
    kernels = [images(i, *layers[f"Conv_{i}"]["kernel"].shape) for i in range(len(layers))]
    params = {f"Conv_{i}": {"kernel": k, "bias": np.zeros(4)} for i, k in enumerate(kernels)}
    assert len(kernels) == (2 if channels == 4 else 3)
    residual = convolve(np.maximum(convolve(x, kernels[0], stride), 0), kernels[1])
    shortcut = x
    if stride == 2:
        shortcut = x.reshape(2, 2, 2, 3, 2, channels).mean((2, 4))
    if channels != 4:
        shortcut = shortcut @ kernels[2][0, 0]
    found = jax.jit(lambda x: block.apply({"params": params}, x, False))(x)
    np.testing.assert_allclose(found, np.maximum(residual + shortcut, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("depth", "blocks", "expected"),
    [(2, (), (1, 3, 4)), (5, (), (1, 3, 4, 6, 6, 6)), (2, [2, 1, 3], (2, 1, 3))],
)
def test_each_level_has_its_number_of_blocks(depth, blocks, expected):
    params = shapes(make(name="residual_unet", width=1, depth=depth, blocks=blocks))["params"]
    names = [*(f"down_{level}" for level in range(depth)), "bottom"]
    found = [sum("block_" in layer for layer in params[name]) for name in names]
    assert tuple(found) == expected


def test_another_number_of_levels_is_refused():
    line = r"^model\.blocks=\(1, 3\) with model\.depth=2: 2 given; give 3, one for each level .*\)"
    with pytest.raises(UserError, match=line):
        make(name="residual_unet", blocks=(1, 3))


def test_a_logit_sees_its_margin_and_no_more():
    model = make(name="residual_unet", depth=1, blocks=(1, 2), width=8)
    assert model.margin == 12  # 1 + 2 on level 0, 1 + 3 x 2 on level 1, 2 in the decoder
    variables = variables_of(model)

    @jax.jit
    def gradient(image):
        def logits(image):
            return model.apply(variables, image)[0, 20:22, 20:22].sum()

        return jax.grad(logits)(image)

    slopes = np.asarray(gradient(images(0, 1, 40, 40, 3)))
    for axes in [(0, 2, 3), (0, 1, 3)]:
        seen = np.flatnonzero(np.any(slopes != 0, axis=axes))
        # The first of two pixels of level 1 is at the left of its window of stride 2, so that
        # nothing is added at the right.
        assert seen[0] == 20 - 12
        assert 21 + 12 - 1 <= seen[-1] <= 21 + 12
