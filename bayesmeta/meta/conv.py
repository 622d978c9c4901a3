"""The convolutional network of the few-shot literature: four blocks, each of which halves the image.

A block is a 3 x 3 convolution, a normalisation, a ReLU and a halving. Vinyals, Blundell, Lillicrap, Kavukcuoglu and
Wierstra (2016), Matching networks for one shot learning, NeurIPS, halve by the largest of 2 x 2 pixels; Finn, Abbeel
and Levine (2017), Model-agnostic meta-learning, ICML, halve Omniglot by the stride of the convolution.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn

from bayesmeta.errors import OptionError, unknown
from bayesmeta.infer.options import check_whole

__all__ = ["Conv4"]

NORMS = ("batch", "group", "none")
HALVINGS = ("pool", "stride")
GROUP = 8  # channels of a group


class Conv4(nn.Sequential):
    """Four blocks of convolution, normalisation, ReLU and halving; then a linear layer, where classes are to come out.

    Images come in as (n, channels, side, side). Without `ways` features come out, (n, `features`), as `ProtoNet` and
    `ProtoMAML` want them; with `ways` a number for each class, (n, ways), as the others do. An image that is too small
    to be halved four times stays at one pixel in the last blocks.

    Args:
        channels: Of the images: 1 for grey, 3 for colours.
        ways: Number of classes, or None for features.
        size: Side of the images in pixels.
        filters: Channels of each block.
        blocks: How many blocks. Of a small image four leave a single pixel, and fewer do better: two leave 2 x 2 of
            8 x 8 pixels.
        norm: ``"batch"`` normalises each channel over the images that come in together, be they support or query
            (transductive, as in the papers: what is said of an image then depends on the others beside it);
            ``"group"`` each image on its own, over groups of 8 channels; ``"none"`` not at all.
        halve: By ``"pool"``, the largest of 2 x 2 pixels, or by ``"stride"``, a convolution at every second pixel,
            which is about a quarter of the work.
        seed: Seeds the initial weights; random numbers elsewhere are left alone.

    Attributes:
        features: How many numbers of an image reach the end of the blocks.

    Raises:
        OptionError: A setting is unknown or out of range.

    Example:
        >>> net = Conv4(1, ways=5, size=28, filters=16)
        >>> net(torch.zeros(3, 1, 28, 28)).shape, net.features
        (torch.Size([3, 5]), 16)
    """

    def __init__(
        self,
        channels: int = 1,
        ways: int | None = None,
        *,
        size: int = 28,
        filters: int = 64,
        blocks: int = 4,
        norm: Literal["batch", "group", "none"] = "batch",
        halve: Literal["pool", "stride"] = "pool",
        seed: int = 0,
    ) -> None:
        sizes = {"channels": channels, "size": size, "filters": filters, "blocks": blocks, "ways": ways}
        for name, value in sizes.items():
            if value is not None:
                check_whole(name, value, 1)
        if norm not in NORMS:
            raise OptionError(unknown("norm", norm, NORMS))
        if halve not in HALVINGS:
            raise OptionError(unknown("halve", halve, HALVINGS))
        if norm == "group" and filters % min(GROUP, filters):
            raise OptionError(f"norm='group' wants a multiple of {GROUP} filters, got {filters}")
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            side = size
            for k in range(blocks):
                parts[f"block{k + 1}"] = _block(channels if k == 0 else filters, filters, norm, halve, halved=side > 1)
                side = _half(side, halve)
            parts["flat"] = nn.Flatten()
            if ways is not None:
                parts["head"] = nn.Linear(filters * side * side, ways)
        super().__init__(parts)
        self.features = filters * side * side


def _half(side: int, halve: str) -> int:
    return max(side // 2, 1) if halve == "pool" else (side + 1) // 2


def _block(channels: int, filters: int, norm: str, halve: str, *, halved: bool) -> nn.Sequential:
    """One block; an image of a single pixel is not halved."""
    by_stride = halved and halve == "stride"
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(channels, filters, 3, stride=2 if by_stride else 1, padding=1)
    if norm == "batch":
        layers["norm"] = nn.BatchNorm2d(filters, track_running_stats=False)
    elif norm == "group":
        layers["norm"] = nn.GroupNorm(max(filters // GROUP, 1), filters)
    layers["relu"] = nn.ReLU()
    if halved and not by_stride:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)
