"""Posterior network q(z_0 | x_0)."""

from __future__ import annotations

from torch import Tensor, nn

from ffrl.config import ModelConfig
from ffrl.models.initialization import initialize_


class Encoder(nn.Module):
    """Stride-2 convolutions, dense layers, and two heads for the mean and the log variance.

    With ``conv_widths=(D, 2D)`` and ``encoder_widths=(3D, 2D, 2D)`` this is the paper's network for 28 and 64 pixels:
    its convolution whose kernel covers the whole feature map, and the 1x1 convolutions after it, are linear layers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = config.image_channels, config.image_size
        for width in config.conv_widths:
            layers += [nn.Conv2d(channels, width, kernel_size=4, stride=2, padding=1), nn.ReLU()]
            if config.refine:
                layers += [nn.Conv2d(width, width, kernel_size=3, padding=1), nn.ReLU()]
            channels, size = width, size // 2
        layers.append(nn.Flatten())
        inputs = channels * size * size
        for i, width in enumerate(config.encoder_widths):
            last = i == len(config.encoder_widths) - 1
            layers += [nn.Linear(inputs, width)] if last and i else [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.mu = nn.Linear(inputs, config.latent_dim)
        self.log_var = nn.Linear(inputs, config.latent_dim)
        initialize_(self.body, config.weight_init)
        if config.initial_log_var is not None:
            nn.init.constant_(self.log_var.bias, config.initial_log_var)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, I, I) in [0, 1] -> mu (B, D), log_var (B, D)."""
        features = self.body(x)
        return self.mu(features), self.log_var(features)
