"""Inception1d: InceptionTime (Ismail Fawaz et al., 2020) in the form used for PTB-XL (Strodthoff et al., 2021).

Six inception modules of width 128 with a residual shortcut after the third and the sixth, and a concat-pooling head.
GroupNorm stands in place of BatchNorm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, BOTTLENECK, KERNELS, GROUPS = 128, 32, (39, 19, 9), 8


class Inception1d(nn.Module):
    """Inception1d with about 506,000 parameters.

    Parameters
    ----------
    leads, outputs : int
    rate : int
        Unused by the layers: the published network runs the same kernels at any rate; accepted for the registry's sake.
    """

    def __init__(self, leads: int = 12, outputs: int = 5, rate: int = 100) -> None:
        super().__init__()
        del rate
        self.blocks = nn.ModuleList(InceptionModule(leads if i == 0 else WIDTH) for i in range(6))
        self.shortcuts = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, WIDTH, 1, bias=False), nn.GroupNorm(GROUPS, WIDTH))
            for width in (leads, WIDTH)
        )
        self.features = 2 * WIDTH
        self.neck = nn.Sequential(
            nn.LayerNorm(2 * WIDTH),
            nn.Dropout(0.25),
            nn.Linear(2 * WIDTH, WIDTH),
            nn.ReLU(),
            nn.LayerNorm(WIDTH),
            nn.Dropout(0.5),
        )
        self.head = nn.Linear(WIDTH, outputs)
        self.segmenter: nn.Module | None = None
        self.map_widths, self.map_stride = (WIDTH,), 1

    def forward_maps(self, signals: Tensor) -> list[Tensor]:
        """Return the last map alone, (batch, 128, samples): no layer before it strides."""
        x = residual = signals
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i % 3 == 2:
                x = torch.relu(x + self.shortcuts[i // 3](residual))
                residual = x
        return [x]

    def pool(self, last: Tensor) -> Tensor:
        """Return (batch, 128) features: maximum and mean over time of the last map, through the neck."""
        return self.neck(torch.cat([last.amax(dim=-1), last.mean(dim=-1)], dim=1))

    def forward_features(self, signals: Tensor) -> Tensor:
        """Return (batch, 128) features from (batch, leads, samples)."""
        return self.pool(self.forward_maps(signals)[-1])

    def forward(self, signals: Tensor) -> Tensor:
        """Return (batch, outputs)."""
        return self.head(self.forward_features(signals))

    def reset_head(self, outputs: int) -> None:
        """Replace the last linear layer, 128 -> outputs, as the paper's transfer does; a segmentation head goes."""
        self.segmenter = None
        self.head = nn.Linear(WIDTH, outputs).to(self.head.weight.device)

    def last_stage(self) -> list[nn.Module]:
        """Return the last three modules, their shortcut and the layers between pooling and head."""
        return [*self.blocks[3:], self.shortcuts[1], self.neck]


class InceptionModule(nn.Module):
    """Bottleneck, three parallel convolutions and a max-pooled branch, concatenated to 128 channels."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(width_in, BOTTLENECK, 1, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv1d(BOTTLENECK, BOTTLENECK, kernel, padding=kernel // 2, bias=False) for kernel in KERNELS
        )
        self.pooled = nn.Sequential(
            nn.MaxPool1d(3, stride=1, padding=1), nn.Conv1d(width_in, BOTTLENECK, 1, bias=False)
        )
        self.norm = nn.GroupNorm(GROUPS, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 128, samples)."""
        narrow = self.bottleneck(x)
        parts = [branch(narrow) for branch in self.branches]
        return torch.relu(self.norm(torch.cat([*parts, self.pooled(x)], dim=1)))
