"""Superclasses as a target: the loss over what is known, and how well simulated patients are told apart."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from core.learning.class_target import BINS, class_histograms, class_loss, summarise_classes


class TestLoss:
    def test_is_the_mean_binary_cross_entropy_over_the_classes(self):
        logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.float32)
        expected = [binary_cross_entropy_with_logits(row, truth) for row, truth in zip(logits, labels, strict=True)]
        torch.testing.assert_close(class_loss(logits, labels), torch.stack(expected))

    def test_leaves_out_what_nobody_knows_and_its_gradient(self):
        logits = torch.zeros(2, 5, requires_grad=True)
        labels = torch.tensor([[1, 0, torch.nan, torch.nan, torch.nan], [torch.nan] * 5])
        loss = class_loss(logits, labels)
        # Two even guesses of the first record; nothing of the second.
        np.testing.assert_allclose(loss.detach(), [np.log(2), 0], rtol=1e-6)
        loss.sum().backward()
        assert logits.grad.tolist() == [[-0.25, 0.25, 0, 0, 0], [0] * 5]


class TestHistograms:
    def test_count_labelled_records_by_class_label_and_score(self):
        labels = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [torch.nan] * 5])
        counts = class_histograms(torch.zeros(3, 5), labels)
        assert counts.shape == (5, 2, BINS)
        assert counts.sum(axis=2).tolist() == [[1, 1], [1, 1], [2, 0], [2, 0], [1, 1]]
        assert counts[:, :, BINS // 2].sum() == counts.sum()

    def test_tell_the_share_of_pairs_in_the_right_order(self):
        # Of class NORM: scores 2 and 0 with it, 1 and -1 without; three of four pairs are in order.
        labels = torch.zeros(4, 5)
        labels[:2, 0] = 1
        logits = torch.tensor([2.0, 0, 1, -1])[:, None].expand(4, 5)
        told = summarise_classes(class_histograms(logits, labels))
        assert told["NORM"] == {"auroc": pytest.approx(0.75), "records": 2}
        # The others are never met, so that nothing can be said of them, nor of their mean.
        assert told["CD"] == {"auroc": None, "records": 0}
        assert told["macro"]["records"] == 4
