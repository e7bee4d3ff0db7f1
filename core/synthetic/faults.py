"""What goes wrong in a recording beyond noise: electrodes that come off, and amplifiers that saturate.

None of this belongs to the shared synthetic set; recorders of simulated hospitals have it (:mod:`core.synthetic.devices`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from core.ecg.leads import LEADS

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
RAIL_MV = 5.0
"""Where an open input comes to rest whose amplifier has no limit of its own."""

_AUGMENTED = ("aVR", "aVL", "aVF")
_LEADS_OF_LIMB = {"RA": ("I", "II"), "LA": ("I", "III"), "LL": ("II", "III")}
LEADS_OF = np.array(
    [[lead in (*_LEADS_OF_LIMB[e], *_AUGMENTED) if e in _LEADS_OF_LIMB else lead == e for lead in LEADS]
     for e in ELECTRODES]
)  # fmt: skip
"""Which of the twelve leads go with an electrode, bool of shape (9, 12); chest leads bear the loss of a limb electrode."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a batch of recordings beyond noise.

    Attributes
    ----------
    electrode : ndarray of shape (n,), int64
        Position in :data:`ELECTRODES` of the one that is off; -1 where all hold.
    since : ndarray of shape (n,), float32
        From which share of the record on it is off; 0 is from the beginning.
    rail : ndarray of shape (n,), int64
        Where its leads rest: 0 flat at zero, -1 or 1 at the lower or upper rail.
    limit_mv : ndarray of shape (n,), float32
        Largest value the recorder holds; infinite where it never saturates.
    """

    electrode: np.ndarray
    since: np.ndarray
    rail: np.ndarray
    limit_mv: np.ndarray

    def take(self, rows: np.ndarray | slice) -> Faults:
        """Return the faults of some records."""
        return Faults(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def impair(signals: Tensor, faults: Faults) -> Tensor:
    """Return twelve leads as a recorder gives them that saturates or has lost an electrode.

    A lost chest electrode takes its own lead. A lost limb electrode takes the limb leads it is part of and the augmented
    leads; the chest leads stay, as with recorders that go over to the remaining limb electrodes as their reference.

    Parameters
    ----------
    signals : Tensor of shape (n, 12, samples), mV
        In the order of :data:`core.ecg.leads.LEADS`.
    faults : Faults
        Of the same n records.
    """
    limit = torch.as_tensor(faults.limit_mv, device=signals.device)[:, None, None]
    impaired = torch.clamp(signals, -limit, limit)
    rows = np.flatnonzero(faults.electrode >= 0)
    if len(rows):
        off = faults.take(rows)
        rail = off.rail * np.where(np.isfinite(off.limit_mv), off.limit_mv, RAIL_MV).astype(np.float32)
        leads, since, level = (
            torch.as_tensor(values, device=signals.device)
            for values in (LEADS_OF[off.electrode], np.rint(off.since * signals.shape[-1]), rail.astype(np.float32))
        )
        late = torch.arange(signals.shape[-1], device=signals.device) >= since[:, None]
        position = torch.as_tensor(rows, device=signals.device)
        lost = leads[:, :, None] & late[:, None, :]
        impaired[position] = torch.where(lost, level[:, None, None], impaired[position])
    return impaired
