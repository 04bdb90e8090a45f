"""Likelihood network: the mean image of p(x_t | z_t)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from ffrl.config import ModelConfig
from ffrl.models.initialization import initialize_


class FullKernelTranspose(nn.Module):
    """Transposed convolution from 1x1 to size x size: one matrix product and a bias per channel."""

    def __init__(self, inputs: int, channels: int, size: int) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        self.linear = nn.Linear(inputs, channels * size * size, bias=False)
        self.bias = nn.Parameter(torch.empty(channels))
        nn.init.uniform_(self.bias, -(inputs**-0.5), inputs**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features).unflatten(1, self.shape) + self.bias[:, None, None]


class Decoder(nn.Module):
    """Dense layers, then transposed convolutions that mirror the encoder (or pixels at once), then a sigmoid.

    The output bias starts at the logit of ``initial_intensity``, so that training does not begin with learning that
    the images are mostly dark.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = config.latent_dim
        for width in config.decoder_widths:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        image = (config.image_channels, config.image_size, config.image_size)
        if config.decoder_convolutions:
            widths = [*config.conv_widths[::-1], config.image_channels]
            size = config.image_size // 2 ** len(config.conv_widths)
            layers += [FullKernelTranspose(inputs, widths[0], size), nn.ReLU()]
            for width, following in itertools.pairwise(widths):
                doubled = width if config.refine else following
                layers += [nn.ConvTranspose2d(width, doubled, kernel_size=4, stride=2, padding=1), nn.ReLU()]
                if config.refine:
                    layers += [nn.ConvTranspose2d(width, following, kernel_size=3, padding=1), nn.ReLU()]
            layers.pop()
            output = layers[-1]
        else:
            output = nn.Linear(inputs, math.prod(image))
            layers += [output, nn.Unflatten(1, image)]
        assert isinstance(output, nn.ConvTranspose2d | nn.Linear) and output.bias is not None
        nn.init.constant_(output.bias, math.log(config.initial_intensity / (1 - config.initial_intensity)))
        self.body = nn.Sequential(*layers)
        initialize_(self.body, config.weight_init)

    def logits(self, z: Tensor) -> Tensor:
        """z (M, D) -> logits of the mean image (M, C, I, I)."""
        return self.body(z)

    def forward(self, z: Tensor) -> Tensor:
        """z (M, D) -> mean image (M, C, I, I) in [0, 1]."""
        return torch.sigmoid(self.body(z))
