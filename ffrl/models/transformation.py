"""Recognition network of the transformation: logits of q(k | x_0..x_T)."""

from __future__ import annotations

from torch import Tensor, nn

from ffrl.config import ModelConfig
from ffrl.models.initialization import initialize_


class TransformationEncoder(nn.Module):
    """All frames stacked on the channels, then the convolutions of the encoder, a dense layer, and K logits.

    Args:
        config: of the model.
        num_potentials: K.
        num_frames: T+1.
    """

    def __init__(self, config: ModelConfig, num_potentials: int, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        layers: list[nn.Module] = []
        channels, size = num_frames * config.image_channels, config.image_size
        for width in config.conv_widths:
            layers += [nn.Conv2d(channels, width, kernel_size=4, stride=2, padding=1), nn.ReLU()]
            channels, size = width, size // 2
        width = config.encoder_widths[-1]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, width), nn.ReLU())
        self.logits = nn.Linear(width, num_potentials)
        initialize_(self.body, config.weight_init)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T+1, C, I, I) in [0, 1] -> (B, K)."""
        return self.logits(self.body(x.flatten(1, 2)))
