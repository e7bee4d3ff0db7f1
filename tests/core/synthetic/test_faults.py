"""Lost electrodes and saturation."""

import numpy as np
import pytest
import torch

from core.ecg.leads import LEADS
from core.synthetic.faults import ELECTRODES, LEADS_OF, Faults, impair


def faults(electrode: str | None = None, since: float = 0.0, rail: int = 0, limit: float = np.inf) -> Faults:
    return Faults(
        electrode=np.array([ELECTRODES.index(electrode) if electrode else -1]),
        since=np.array([since], np.float32),
        rail=np.array([rail]),
        limit_mv=np.array([limit], np.float32),
    )


def test_a_recorder_without_faults_changes_nothing():
    signals = 100 * torch.randn(1, 12, 50)
    assert torch.equal(impair(signals, faults()), signals)


def test_saturation_cuts_at_the_limit_and_leaves_what_is_below():
    signals = torch.tensor([-7.0, -4.9, 0.0, 4.9, 5.1]).repeat(1, 12, 1)
    expected = torch.tensor([-5.0, -4.9, 0.0, 4.9, 5.0]).repeat(1, 12, 1)
    assert torch.equal(impair(signals, faults(limit=5.0)), expected)


@pytest.mark.parametrize(
    ("electrode", "lost"),
    [
        ("RA", {"I", "II", "aVR", "aVL", "aVF"}),
        ("LA", {"I", "III", "aVR", "aVL", "aVF"}),
        ("LL", {"II", "III", "aVR", "aVL", "aVF"}),
        ("V3", {"V3"}),
    ],
)
def test_a_lost_electrode_takes_the_leads_it_is_part_of(electrode, lost):
    signals = torch.rand(1, 12, 20) + 1
    flat = (impair(signals, faults(electrode)) == 0).all(dim=2)[0].numpy()
    assert {lead for lead, gone in zip(LEADS, flat, strict=True) if gone} == lost
    assert set(np.array(LEADS)[LEADS_OF[ELECTRODES.index(electrode)]]) == lost


def test_a_lead_lost_half_way_rests_at_the_rail_from_there_on():
    signals = torch.full((1, 12, 10), 0.3)
    v6 = impair(signals, faults("V6", since=0.5, rail=-1, limit=4.0))[0, LEADS.index("V6")]
    assert torch.equal(v6, torch.tensor([0.3] * 5 + [-4.0] * 5))
    assert (signals == 0.3).all()
