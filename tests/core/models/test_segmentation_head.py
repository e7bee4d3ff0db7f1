"""The segmentation head alone: shapes, alignment in time, and learning from maps."""

import numpy as np
import torch
from torch.nn import functional

from core.models.registry import create_model
from core.models.segmentation_head import SegmentationHead, _stretch


def test_stretching_repeats_each_position():
    x = torch.arange(6.0).reshape(1, 2, 3)
    assert _stretch(x, 5).tolist() == [[[0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]]
    assert _stretch(x, 3) is not None
    np.testing.assert_array_equal(_stretch(x, 3), x)


def test_each_position_of_the_finest_map_gives_the_samples_that_it_stands_for():
    head = SegmentationHead((8,), stride=3)
    with torch.no_grad():
        for parameter in head.classify.parameters():
            parameter.zero_()
        # Output channel = class * 3 + sample within the position.
        head.classify.bias.copy_(torch.arange(12.0))
    logits = head([torch.zeros(1, 8, 2)], 5)
    assert logits[0].tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4], [6, 7, 8, 6, 7], [9, 10, 11, 9, 10]]


def test_no_record_looks_at_another():
    model = create_model("resnet1d", outputs=4, seed=0, segments=True).eval()
    signals = torch.randn(3, 12, 300, generator=torch.Generator().manual_seed(0))

    def logits(x: torch.Tensor) -> torch.Tensor:
        return model.segmenter(model.forward_maps(x), 300)

    together, alone = logits(signals), torch.cat([logits(record[None]) for record in signals])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_it_learns_to_the_sample_where_a_step_is():
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(20, 150, (16,), generator=generator)
    inside = (torch.arange(200) >= starts[:, None]) & (torch.arange(200) < starts[:, None] + 23)
    signals = inside[:, None].float() + 0.05 * torch.randn(16, 12, 200, generator=generator)
    truth = inside.long() * 2
    model = create_model("resnet1d", outputs=0, seed=0, segments=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(60):
        logits = model.segmenter(model.forward_maps(signals), 200)
        loss = functional.cross_entropy(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(dim=1) == truth).float().mean() > 0.995
