"""Weights before training."""

from __future__ import annotations

import itertools

from torch import nn

from ffrl.config import WeightInit


def initialize_(layers: nn.Sequential, weight_init: WeightInit) -> None:
    """Leave the weights as PyTorch has drawn them ("default"), or, for every layer that a ReLU follows, draw them from
    N(0, 2 / fan-in) and set the biases to 0 ("he").

    He et al. 2015: what comes out is on average as large as what goes in, however many layers there are. Fan-in is the
    number of products that are added up in one output value; in a transposed convolution of kernel m and stride s
    these are, away from the border, those of the (m/s)² places of the kernel that meet an input.
    """
    if weight_init == "default":
        return
    for layer, following in itertools.pairwise(layers):
        if not isinstance(following, nn.ReLU):
            continue
        weight = next(parameter for parameter in layer.parameters() if parameter.dim() > 1)
        fan_in = weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):  # its weight has the inputs first
            fan_in = weight.shape[0] * weight[0, 0].numel() // (layer.stride[0] * layer.stride[1])
        nn.init.normal_(weight, std=(2 / fan_in) ** 0.5)
        for parameter in layer.parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
