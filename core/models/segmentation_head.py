"""The head that names each sample P, QRS, T or nothing; used in pretraining alone and dropped at transfer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CHANNELS, GROUPS, CLASSES = 32, 8, 4


class SegmentationHead(nn.Module):
    """A feature pyramid (Lin et al., CVPR 2017) over a backbone's maps, then a sub-pixel convolution.

    Coarse maps know which wave it is, fine ones where it begins: from the coarsest on, each is brought to 32 channels,
    joined by what came from the coarser ones, and mixed over neighbours. The sub-pixel convolution (Shi et al., CVPR
    2016) then gives each position of the finest map the classes of all its samples. About 20,000 parameters.

    Parameters
    ----------
    widths : sequence of int
        Channels of the maps, fine to coarse.
    stride : int
        Samples of the signal for one position of the finest map.
    """

    def __init__(self, widths: Sequence[int], stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.laterals = nn.ModuleList(nn.Conv1d(width, CHANNELS, 1, bias=False) for width in widths)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, CHANNELS) for _ in widths)
        self.mixers = nn.ModuleList(nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1, bias=False) for _ in widths)
        self.norm = nn.GroupNorm(GROUPS, CHANNELS)
        self.classify = nn.Conv1d(CHANNELS, CLASSES * stride, 5, padding=2)

    def forward(self, maps: Sequence[Tensor], samples: int) -> Tensor:
        """Return logits of shape (batch, 4, samples) from maps of shape (batch, widths[i], positions), fine to coarse."""
        x: Tensor | None = None
        for level in reversed(range(len(maps))):
            lateral = self.laterals[level](maps[level])
            x = lateral if x is None else lateral + _stretch(x, lateral.shape[-1])
            x = self.mixers[level](torch.relu(self.norms[level](x)))
        assert x is not None
        logits = self.classify(torch.relu(self.norm(x)))
        return logits.unflatten(1, (CLASSES, self.stride)).transpose(2, 3).flatten(2)[..., :samples]


def _stretch(x: Tensor, positions: int) -> Tensor:
    """Repeat each position until there are so many; unlike ``interpolate``, repeatable on a GPU too."""
    times = -(-positions // x.shape[-1])
    return x.unsqueeze(-1).expand(*x.shape, times).flatten(-2)[..., :positions]
