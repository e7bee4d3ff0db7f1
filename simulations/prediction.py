"""Use of a trained model on one record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.config import load_config
from core.ecg.leads import INDEPENDENT_LEADS, LEADS, to_twelve
from core.ecg.preparation import prepare
from core.ecg.sources import Recording
from core.ecg.sources.record_files import read_record_file
from core.errors import DataError
from core.models.saved import load_model


@dataclass(frozen=True)
class Prediction:
    """What a model says of a record.

    Attributes
    ----------
    probabilities : dict of str to float
        By class; several may be high, since a record may have several findings.
    signal : ndarray of shape (12, samples)
        The record at its own rate, mV, as drawn.
    rate : int
    """

    probabilities: dict[str, float]
    signal: np.ndarray
    rate: int


def predict_record(run: Path, record: Path, rate: int | None = None) -> Prediction:
    """Classify one record with the model of a run.

    Parameters
    ----------
    record : Path
        A file of any kind that :func:`core.ecg.sources.record_files.read_record_file` reads, such as a WFDB record (with
        or without ``.hea``) or a challenge ``.mat``, or a ``.npy`` array of shape (12, samples) or (8, samples) in mV with
        leads in the standard order.
    rate : int, optional
        Of an array, which is otherwise taken to last 10 s, or of a CSV without a column of times.

    Raises
    ------
    DataError
        When the run holds no common model, or the record cannot be read or misses a lead.
    """
    if (run / "config.toml").is_file() and load_config(run / "config.toml").federation.personal == "head":
        raise DataError(f"{run} has a head for each hospital and none in common; train with federation.personal = none")
    model, card = load_model(run)
    recording = _read_array(record, rate) if record.suffix == ".npy" else read_record_file(record, rate=rate)
    prepared = prepare(
        recording,
        rate=card.rate,
        normalisation=card.normalisation,
        band=card.band,
        seconds=card.samples // card.rate,
    )
    with torch.inference_mode():
        logits = model(torch.from_numpy(np.ascontiguousarray(prepared[None], dtype=np.float32))).numpy()[0]
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    signal = to_twelve(recording.signal, recording.leads)
    return Prediction(dict(zip(card.classes, probabilities.tolist(), strict=True)), signal, recording.rate)


def _read_array(record: Path, rate: int | None) -> Recording:
    try:
        signal = np.load(record, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{record} does not exist; name a WFDB record or a .npy array") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{record} is no array that numpy can read ({error}); save it with numpy.save") from None
    if signal.ndim != 2 or signal.shape[0] not in (8, 12) or not signal.shape[1]:
        raise DataError(f"{record} has shape {signal.shape}; give 12 (or 8) leads x samples")
    if signal.dtype.kind not in "iuf":
        raise DataError(f"{record} holds {signal.dtype}, which are no samples; save numbers in mV")
    names = LEADS if len(signal) == 12 else INDEPENDENT_LEADS
    return Recording(signal.astype(np.float64), names, rate or max(1, round(signal.shape[1] / 10)))
