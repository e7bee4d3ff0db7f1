"""DICOM ECG waveforms (`.dcm`), and a CSV of their labels; needs pydicom.

What the table has: :mod:`core.ecg.sources.labelled_records`. Where it has no patient, age or sex, the files' PatientID,
PatientAge and PatientSex count. Of a file's groups of channels the longest original one is read, not the median beats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.ecg.leads import LEADS
from core.ecg.sources import Recording, Source
from core.ecg.sources.labelled_records import NEEDS_TABLE, open_labelled
from core.ecg.sources.units import millivolt_per
from core.errors import DataError

NEEDS = f"DICOM waveform files, in any folders, {NEEDS_TABLE}; pip install 'cardiofed[dicom]'"

# Lead numbers of SCP-ECG (5.6.3-9-1) and of ISO/IEEE 11073 (2:1) are the same.
_LEAD_CODE = re.compile(r"(?:5\.6\.3-9-|2:)(\d+)")
_LEAD_OF_CODE = dict(zip((1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), LEADS, strict=True))


def open_folder(folder: Path, *, rate: int, labels: str | Path | None = None, codes: str | None = None) -> Source:
    """Open a folder of DICOM files, known by what they begin with, whatever their ending.

    Parameters
    ----------
    folder
        Searched with all that lies in it.
    rate
        Hz wanted (the import resamples).
    labels, codes
        See :func:`core.ecg.sources.labelled_records.open_labelled`.

    Returns
    -------
    Source
        Records by the names of their files.

    Raises
    ------
    DataError
        As :func:`core.ecg.sources.labelled_records.open_labelled`, or pydicom is not installed.
    """
    _pydicom()
    return open_labelled(
        "dicom",
        folder,
        is_record=lambda file: is_dicom(folder / file),
        read=read_dicom,
        labels=labels,
        codes=codes,
        said=_said,
    )


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark behind its first 128 bytes."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | Path, record: str | None = None) -> Recording:
    """Read one file in millivolt, float64 (leads, samples).

    Raises
    ------
    DataError
        The file is missing, damaged or holds no waveform; or a channel has no sensitivity or a unit that is no voltage.
    """
    place = Path(path)
    name = record or place.stem
    pydicom = _pydicom()
    if not place.is_file():
        raise DataError(f"record {name}: {place} is missing; restore it or leave the record out")
    try:
        content = pydicom.dcmread(place)
        groups = list(content.WaveformSequence) if "WaveformSequence" in content else []
        if not groups:
            raise DataError(f"record {name}: {place} holds no waveform; leave the record out")
        return _recording(content, _longest(groups), place, name)
    except DataError:
        raise
    except Exception as error:
        # pydicom answers a damaged file with whatever its parser trips over.
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"record {name}: {place} is truncated or malformed ({reason}); restore it or leave the record out"
        ) from None


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.waveforms
    except ImportError:
        raise DataError("reading DICOM needs pydicom; install it with: pip install 'cardiofed[dicom]'") from None
    return pydicom


def _longest(groups: list[Any]) -> int:
    """The place of the longest group, of the original ones where there are any."""
    original = [place for place, group in enumerate(groups) if group.get("WaveformOriginality") == "ORIGINAL"]
    return max(original or range(len(groups)), key=lambda place: int(groups[place].NumberOfWaveformSamples))


def _recording(content: Any, place: int, path: Path, record: str) -> Recording:
    group = content.WaveformSequence[place]
    raw = np.asarray(_pydicom().waveforms.multiplex_array(content, place, as_raw=True)).T
    channels = list(group.ChannelDefinitionSequence)
    if len(channels) != len(raw) or not raw.size:
        raise DataError(f"record {record}: {path} describes {len(channels)} channels but has {len(raw)}; restore it")
    rate = float(group.SamplingFrequency)
    if not 0 < rate < 1e6 or rate != int(rate):
        raise DataError(f"record {record} has a rate of {rate:g} Hz; only whole positive rates can be read")
    signal = np.stack([_millivolt(values, one, path, record) for values, one in zip(raw, channels, strict=True)])
    return Recording(signal, tuple(_lead(channel) for channel in channels), int(rate))


def _millivolt(values: np.ndarray, channel: Any, path: Path, record: str) -> np.ndarray:
    """``sample * sensitivity * correction + baseline`` in the channel's unit (DICOM PS3.3, C.10.9.1.4), as mV."""
    sensitivity = float(channel.get("ChannelSensitivity") or 0)
    units = channel.get("ChannelSensitivityUnitsSequence")
    if not 0 < sensitivity < np.inf or not units:
        raise DataError(
            f"record {record}: {path} gives {_lead(channel)} no sensitivity, so its amplitude is unknown; leave the record "
            "out"
        )
    correction = channel.get("ChannelSensitivityCorrectionFactor")
    factor = sensitivity * (1.0 if correction is None else float(correction))
    baseline = float(channel.get("ChannelBaseline") or 0)
    if not (0 < factor < np.inf and np.isfinite(baseline)):
        raise DataError(
            f"record {record}: {path} gives {_lead(channel)} an impossible correction or baseline; leave the record out"
        )
    scaled: np.ndarray = (values * factor + baseline) * millivolt_per(str(units[0].CodeValue), record)
    return scaled


def _lead(channel: Any) -> str:
    source = channel.ChannelSourceSequence[0]
    code = _LEAD_CODE.fullmatch(str(source.get("CodeValue", "")))
    if code and int(code[1]) in _LEAD_OF_CODE:
        return _LEAD_OF_CODE[int(code[1])]
    return re.sub(r"\(.*?\)", "", str(source.get("CodeMeaning", ""))).strip()


def _said(path: Path) -> Mapping[str, str]:
    tags = {"patient": "PatientID", "age": "PatientAge", "sex": "PatientSex"}
    try:
        content = _pydicom().dcmread(path, stop_before_pixels=True, specific_tags=list(tags.values()))
        return {key: str(content.get(tag) or "") for key, tag in tags.items()}
    except Exception:
        # Reading the record will tell.
        return {}
