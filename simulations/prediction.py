"""Use of a trained model on one record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.ecg.dataset import check_reachable
from core.ecg.leads import LEADS, to_twelve
from core.ecg.preprocessing import band_pass, fix_length, normalise, resample
from core.errors import DataError
from core.models.saved import ModelCard, load_model


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
        A WFDB record (with or without ``.hea``), or a ``.npy`` array of shape (12, samples) or (8, samples) in mV with
        leads in the standard order.
    rate : int, optional
        Of an array; without it an array is taken to last 10 s.
    """
    model, card = load_model(run)
    signal, rate = _read_array(record, rate) if record.suffix == ".npy" else _read_wfdb(record)
    prepared = _prepare(signal, rate, card)
    with torch.inference_mode():
        logits = model(torch.from_numpy(prepared[None])).numpy()[0]
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return Prediction(dict(zip(card.classes, probabilities.tolist(), strict=True)), signal, rate)


def _prepare(signal: np.ndarray, rate: int, card: ModelCard) -> np.ndarray:
    check_reachable("none", card.normalisation, "the record")
    prepared = resample(signal, rate, card.rate)
    if card.band is not None:
        prepared = band_pass(prepared, card.rate, card.band)
    prepared = fix_length(prepared, card.samples)
    return np.ascontiguousarray(normalise(prepared, card.normalisation), dtype=np.float32)


def _read_wfdb(record: Path) -> tuple[np.ndarray, int]:
    from core.ecg.sources.wfdb_files import read_wfdb

    recording = read_wfdb(record.with_suffix("") if record.suffix in (".dat", ".mat") else record)
    if not np.isfinite(recording.signal).all():
        raise DataError(f"record {record.name} has samples marked invalid; repair or leave out the record")
    return to_twelve(recording.signal, recording.leads), recording.rate


def _read_array(record: Path, rate: int | None) -> tuple[np.ndarray, int]:
    try:
        signal = np.load(record, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{record} does not exist; name a WFDB record or a .npy array") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{record} is no array that numpy can read ({error}); save it with numpy.save") from None
    if signal.ndim != 2 or signal.shape[0] not in (8, 12):
        raise DataError(f"{record} has shape {signal.shape}; give 12 (or 8) leads x samples")
    if not np.isfinite(signal).all():
        raise DataError(f"{record} holds values that are not finite; repair or leave out the record")
    names = LEADS if len(signal) == 12 else ("I", "II", *LEADS[6:])
    return to_twelve(signal.astype(np.float32), names), rate or round(signal.shape[1] / 10)
