"""Encoder and decoder: sizes of the published networks, the order of their layers, and the range of the images."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from ffrl.config import ModelConfig
from ffrl.errors import ArgumentError
from ffrl.models.decoder import Decoder, FullKernelTranspose
from ffrl.models.encoder import Encoder
from ffrl.models.transformation import TransformationEncoder
from ffrl.presets import preset_config
from tests.tolerances import relative_error

PAPER = preset_config("paper").model
SHAPES3D = ModelConfig(
    image_size=64,
    latent_dim=226,
    conv_widths=(226, 452),
    encoder_widths=(678, 452, 452),
    decoder_widths=(226, 452, 678),
    potential_widths=(226, 226),
)
PIXELS_128 = ModelConfig(
    image_size=128,
    latent_dim=324,
    conv_widths=(324,) * 4,
    refine=True,
    encoder_widths=(324,) * 3,
    decoder_widths=(324,) * 3,
    potential_widths=(324, 324),
)
SMALL = ModelConfig(image_size=16, latent_dim=5, conv_widths=(4, 6), encoder_widths=(9, 8), decoder_widths=(7, 8))


@pytest.mark.parametrize(
    ("config", "millions"), [(PAPER, 70.9), (SHAPES3D, 161.4), (PIXELS_128, 32.6)], ids=["mnist", "shapes3d", "128"]
)
def test_number_of_parameters_of_the_published_networks(config: ModelConfig, millions: float):
    with torch.device("meta"):
        networks = Encoder(config), Decoder(config)
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert round(count / 1e6, 1) == millions


def kinds(body: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in body]


def test_order_of_the_layers_of_the_paper():
    with torch.device("meta"):
        encoder, decoder = Encoder(PAPER), Decoder(PAPER)
    assert kinds(encoder.body) == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten"] + ["Linear", "ReLU"] * 2 + ["Linear"]
    assert kinds(decoder.body) == [
        *(["Linear", "ReLU"] * 3),
        *("FullKernelTranspose", "ReLU", "ConvTranspose2d", "ReLU", "ConvTranspose2d"),
    ]
    widths = [(layer.in_features, layer.out_features) for layer in encoder.body if isinstance(layer, nn.Linear)]
    assert widths == [(648 * 49, 972), (972, 648), (648, 648)]
    assert (encoder.mu.in_features, encoder.mu.out_features) == (encoder.log_var.in_features, 324) == (648, 324)
    for layer in [*encoder.body, *decoder.body]:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))


def test_linear_layer_is_the_convolution_over_the_whole_feature_map():
    encoder = Encoder(SMALL).double()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    features = encoder.body[:4](x)
    linear = encoder.body[5]
    assert isinstance(linear, nn.Linear)
    expected = nn.functional.conv2d(features, linear.weight.view(9, 6, 4, 4), linear.bias)  # (3, 9, 1, 1)
    assert relative_error(linear(features.flatten(1)), expected.flatten(1)) < 1e-12


def test_full_kernel_is_the_transposed_convolution_from_one_pixel():
    layer = FullKernelTranspose(5, 3, 4).double()
    features = torch.randn(2, 5, dtype=torch.float64)
    weight = layer.linear.weight.T.reshape(5, 3, 4, 4)
    expected = nn.functional.conv_transpose2d(features[:, :, None, None], weight, layer.bias)
    assert layer(features).shape == (2, 3, 4, 4)
    assert relative_error(layer(features), expected) < 1e-12


@pytest.mark.parametrize(
    "changes",
    [{}, {"refine": True}, {"decoder_convolutions": False}, {"image_channels": 1}, {"encoder_widths": (9,)}],
    ids=str,
)
def test_shapes_and_range_of_the_images(changes: dict):
    config = ModelConfig(**{**vars(SMALL), **changes})
    encoder, decoder = Encoder(config), Decoder(config)
    image = (config.image_channels, 16, 16)
    mu, log_var = encoder(torch.rand(4, *image))
    assert mu.shape == log_var.shape == (4, 5)
    assert not torch.equal(mu, log_var)
    z = 100 * torch.randn(4, 5)
    images, logits = decoder(z), decoder.logits(z)
    assert images.shape == logits.shape == (4, *image)
    assert torch.equal(images, torch.sigmoid(logits))
    assert images.min() >= 0 and images.max() <= 1
    assert logits.abs().max() > 1  # a sigmoid left out would show


@pytest.mark.parametrize("convolutions", [True, False])
def test_initial_intensity(convolutions: bool):
    config = ModelConfig(**{**vars(SMALL), "decoder_convolutions": convolutions, "initial_intensity": 0.2})
    decoder = Decoder(config)
    bias = [p for name, p in decoder.named_parameters() if name.endswith("bias")][-1]
    assert bias.detach().tolist() == pytest.approx([math.log(0.2 / 0.8)] * bias.numel())
    assert decoder(torch.zeros(1, 5)).mean().item() == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("refine", [False, True])
def test_he_weights_keep_the_size_of_activations(refine: bool):
    """Mean square of every layer's input, from layer to layer: kept by He et al.'s weights, lost by PyTorch's."""
    widths = {"conv_widths": (32, 32, 64, 64), "encoder_widths": (256, 256, 256), "decoder_widths": (256, 256)}
    config = ModelConfig(**{**vars(SMALL), **widths, "image_size": 64, "latent_dim": 256, "refine": refine})
    for network, inputs in ((Encoder, torch.randn(8, 3, 64, 64)), (Decoder, torch.randn(32, 256))):
        sizes = {}
        for init in ("default", "he"):
            body = network(ModelConfig(**{**vars(config), "weight_init": init})).body
            sizes[init], value = torch.zeros(0), inputs
            for layer, following in itertools.pairwise(body):
                value = layer(value).detach()
                # Away from the border, which zeros are next to.
                inner = value[..., 1:-1, 1:-1] if value.dim() == 4 and value.shape[-1] > 4 else value
                if isinstance(following, nn.ReLU):
                    sizes[init] = torch.cat((sizes[init], inner.square().mean()[None]))
            assert len(sizes[init]) > 5
        assert 0.4 < sizes["he"][-1] / sizes["he"][0] < 2.5 and sizes["he"].min() > 0.3 and sizes["he"].max() < 6
        assert sizes["default"][-1] < 0.02 * sizes["default"][0]


def test_he_weights_are_those_of_layers_before_a_relu_alone():
    config = ModelConfig(**{**vars(SMALL), "weight_init": "he", "encoder_widths": (400, 300), "decoder_widths": (500,)})
    encoder, decoder = Encoder(config), Decoder(config)
    first, transposed = encoder.body[0], decoder.body[4]
    assert isinstance(first, nn.Conv2d) and isinstance(transposed, nn.ConvTranspose2d)
    dense, last = encoder.body[5], encoder.body[7]
    assert isinstance(dense, nn.Linear) and isinstance(last, nn.Linear)
    assert dense.weight.std().item() == pytest.approx((2 / (6 * 16)) ** 0.5, rel=0.05) and not dense.bias.any()
    assert last.weight.std().item() == pytest.approx((1 / 3 / 400) ** 0.5, rel=0.05) and last.bias.any()  # PyTorch's
    assert encoder.mu.weight.std().item() == pytest.approx((1 / 3 / 300) ** 0.5, rel=0.1)
    assert transposed.weight.std().item() == pytest.approx((2 / (6 * 4)) ** 0.5, rel=0.2)  # 4 of its 16 places meet
    with pytest.raises(ArgumentError, match=r"model.weight_init = 'xavier' .*'default', 'he'"):
        ModelConfig(weight_init="xavier")  # type: ignore[arg-type]


def test_the_recognition_of_k_has_he_weights_too():
    config = ModelConfig(**{**vars(SMALL), "weight_init": "he", "encoder_widths": (400, 300)})
    body = TransformationEncoder(config, 3, 5).body
    assert body[0].weight.std().item() == pytest.approx((2 / (5 * 3 * 16)) ** 0.5, rel=0.1)  # type: ignore[operator]
    assert not body[0].bias.any() and not body[5].bias.any()  # type: ignore[operator]


def test_initial_log_var():
    x = torch.rand(8, 3, 16, 16)
    assert Encoder(SMALL)(x)[1].abs().max() < 1
    log_var = Encoder(ModelConfig(**{**vars(SMALL), "initial_log_var": -5.0}))(x)[1]
    assert (log_var + 5).abs().max() < 1


@pytest.mark.parametrize("refine", [False, True])
def test_every_pixel_is_seen_and_every_layer_is_used(refine: bool):
    wide = {"conv_widths": (16, 16), "encoder_widths": (32, 32), "decoder_widths": (32, 32), "refine": refine}
    config = ModelConfig(**{**vars(SMALL), **wide})
    encoder, decoder = Encoder(config).double(), Decoder(config).double()
    x = torch.rand(8, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    mu, log_var = encoder(x)
    (decoder(mu).sum() + log_var.sum()).backward()
    assert x.grad is not None and bool((x.grad.abs().amax(0) > 0).all())
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.norm() > 0, name
