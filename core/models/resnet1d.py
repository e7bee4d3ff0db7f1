"""A small residual network with GroupNorm: few parameters, because the noise of DP-SGD grows with their number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROUPS = 8


class ResNet1d(nn.Module):
    """Pre-activation residual network (He et al., ECCV 2016) over time, at most 150,000 parameters.

    Parameters
    ----------
    leads, outputs : int
    rate : int
        Samples a second. The stem strides to 50 Hz at any rate.
    """

    def __init__(self, leads: int = 12, outputs: int = 5, rate: int = 100) -> None:
        super().__init__()
        stride = max(1, round(rate / 50))
        # Up to the stride of 500 Hz and beyond: more taps would bring the network over 150,000 parameters.
        kernel = min(4 * stride + 3, 39)
        widths, strides = (32, 32, 64, 64), (2, 2, 2, 1)
        self.stem = nn.Conv1d(leads, widths[0], kernel, stride=stride, padding=kernel // 2)
        self.stages = nn.ModuleList(
            ResidualBlock(width_in, width_out, stride)
            for width_in, width_out, stride in zip((widths[0], *widths[:-1]), widths, strides, strict=True)
        )
        self.norm = nn.GroupNorm(GROUPS, widths[-1])
        self.features = 2 * widths[-1]
        self.head = nn.Linear(self.features, outputs)
        self.segmenter: nn.Module | None = None
        self.map_widths, self.map_stride = (widths[0], *widths[:2], widths[-1]), stride

    def forward_maps(self, signals: Tensor) -> list[Tensor]:
        """Return the maps at 50, 25, 12.5 and 6.25 Hz, (batch, channels, positions); the last one gives the features."""
        maps = [self.stem(signals)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [*maps[:3], torch.relu(self.norm(maps[-1]))]

    def pool(self, last: Tensor) -> Tensor:
        """Return (batch, 128) features: mean and maximum over time of the last map."""
        return torch.cat([last.mean(dim=-1), last.amax(dim=-1)], dim=1)

    def forward_features(self, signals: Tensor) -> Tensor:
        """Return (batch, 128) features."""
        return self.pool(self.forward_maps(signals)[-1])

    def forward(self, signals: Tensor) -> Tensor:
        """Return (batch, outputs) from (batch, leads, samples)."""
        return self.head(self.forward_features(signals))

    def reset_head(self, outputs: int) -> None:
        """Replace the head by a fresh linear layer; a segmentation head goes."""
        self.segmenter = None
        self.head = nn.Linear(self.features, outputs).to(self.stem.weight.device)

    def last_stage(self) -> list[nn.Module]:
        """Return the last residual block and the norm behind it."""
        return [self.stages[-1], self.norm]


class ResidualBlock(nn.Module):
    """Two convolutions with GroupNorm before each, and a projected shortcut where the shape changes."""

    def __init__(self, width_in: int, width_out: int, stride: int, kernel: int = 7) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width_in)
        self.conv1 = nn.Conv1d(width_in, width_out, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, width_out)
        self.conv2 = nn.Conv1d(width_out, width_out, kernel, padding=kernel // 2, bias=False)
        reshape = stride != 1 or width_in != width_out
        self.shortcut = nn.Conv1d(width_in, width_out, 1, stride=stride, bias=False) if reshape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, shortened by its stride."""
        y = torch.relu(self.norm1(x))
        skip = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(y)
        y = self.conv1(y)
        return skip + self.conv2(torch.relu(self.norm2(y)))
