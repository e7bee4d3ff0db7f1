"""Findings about the signals themselves: rate, units, leads that are missing, flat or saturated, hum and drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from core.ecg.checking.findings import LOOK, Finding, about, counted, listed
from core.ecg.checking.scan import MAINS_HZ, Scan, can_hold
from core.ecg.dataset import EcgDataset
from core.ecg.leads import LEADS

RATES = (100, 500)
SECONDS = 10

PLAUSIBLE_SET_MV = (0.7, 8.0)
"""Median over records of the largest peak-to-peak amplitude of any lead: 0.9 to 3.8 in eight open databases."""

PLAUSIBLE_RECORD_MV = (0.1, 20.0)
"""The same of one record, as the median over windows of 2 s; 0.4 to 19 there."""

MANY = 0.1
"""Share of records with impossible amplitudes from which the fault is one of the set."""

HUM_MV = 0.03
HUM_SHARE = 0.25
"""Of the standard deviation of the lead, where millivolt are lost."""

WANDER_MV = 0.5

Found = Iterator[Finding]


def signal_findings(dataset: EcgDataset, scan: Scan) -> Found:
    """Everything that one record's signal, or all of them together, tell without another's."""
    yield from rate(dataset)
    yield from lengths(dataset)
    yield from numbers(dataset, scan)
    yield from units(dataset, scan)
    yield from missing_leads(dataset)
    yield from flat_leads(dataset, scan)
    yield from saturation(dataset, scan)
    yield from mains(dataset, scan)
    yield from wander(dataset, scan)


def rate(dataset: EcgDataset) -> Found:
    """Rate and length that campaigns take."""
    info = dataset.info
    stored = "in millivolt" if info.normalisation == "none" else f"stored as {info.normalisation}"
    band = f"{info.band[0]:g}-{info.band[1]:g} Hz" if info.band else "not filtered"
    said = f"12 leads, {info.rate} Hz, {info.samples / info.rate:g} s, {band}, {stored}"
    if info.rate not in RATES or info.samples != SECONDS * info.rate:
        mend = "campaigns expect 10 s at 100 or 500 Hz; import the set again with --rate"
        yield Finding("rate", "warning", said, mend)
    else:
        yield Finding("rate", "ok", said)


def lengths(dataset: EcgDataset) -> Found:
    """Records that were shorter than the set's, and so are padded; those that were cropped are none's business."""
    if "seconds" not in dataset.records:
        return
    seconds = dataset.records["seconds"].to_numpy(dtype=float)
    short = seconds < dataset.info.samples / dataset.info.rate - 0.5 / dataset.info.rate
    if short.any():
        said = f"{counted(int(short.sum()))} shorter than the set's, from {np.nanmin(seconds):g} s, padded with zeros"
        yield about("length", "note", said, "", dataset.records["record"].to_numpy(), short)


def numbers(dataset: EcgDataset, scan: Scan) -> Found:
    """Samples that are no number."""
    bad = ~scan.finite
    if bad.any():
        said = f"{counted(int(bad.sum()))} with samples that are no number"
        yield about("numbers", "error", said, "import them again", dataset.records["record"].to_numpy(), bad)


def units(dataset: EcgDataset, scan: Scan) -> Found:
    """Amplitudes that no heart has: another unit than mV, or another gain, of the set or of some records."""
    names = dataset.records["record"].to_numpy()
    if dataset.info.normalisation != "none":
        said = f"stored as {dataset.info.normalisation}: units cannot be known"
        yield Finding("units", "note", said, "check a copy that was imported with --normalisation none")
        return
    alive = scan.finite & (scan.span > 0)
    if not alive.any():
        yield Finding("units", "error", "every record is flat", "import the set again: no amplitude is left")
        return
    low, high = PLAUSIBLE_SET_MV
    amplitude = float(np.median(scan.span[alive]))
    said = f"median amplitude {amplitude:.3g} mV, peak to peak"
    least, most = PLAUSIBLE_RECORD_MV
    off = alive & ~plausible(dataset, scan)
    clipped = int(scan.stored_end.sum())
    if amplitude < low:
        mend = "they seem to be in V, or their gain was taken too high: import them again"
        yield about("units", "error", said, mend, names, alive)
    elif clipped > MANY * len(dataset):
        said = f"{counted(clipped)} reach the end of what can be stored (32.8 mV)"
        mend = "their unit is not mV (uV?), or their gain is another: import them again in the right one"
        yield about("units", "error", said, mend, names, scan.stored_end)
    elif amplitude > high:
        mend = "they seem to be in uV, or their gain was taken too low: import them again"
        yield about("units", "error", said, mend, names, alive)
    elif off.any():
        said = (
            f"{counted(int(off.sum()))} with beats below {least:g} or above {most:g} mV, or clipped at 32.8 mV; "
            f"of the set, {said}"
        )
        mend = "look at their gain and unit in the source, and import them again"
        yield about("units", "error" if off.mean() >= MANY else "warning", said, mend, names, off)
    else:
        yield Finding("units", "ok", said)


def plausible(dataset: EcgDataset, scan: Scan) -> NDArray[np.bool_]:
    """Return which records can be judged further, bool of shape (n,): all numbers, not flat, of possible amplitude."""
    alive = scan.finite & (scan.span > 0)
    if dataset.info.normalisation != "none":
        return np.asarray(alive)
    least, most = PLAUSIBLE_RECORD_MV
    beat = scan.beats.max(axis=1)
    return np.asarray(alive & (beat >= least) & (beat <= most) & ~scan.stored_end)


def missing_leads(dataset: EcgDataset) -> Found:
    """Leads that the source did not have, as the import noted them."""
    absent = absent_leads(dataset)
    some = absent.any(axis=1)
    if some.any():
        said = f"{counted(int(some.sum()))} without all twelve leads ({_counted_leads(absent)})"
        mend = "models take them with zeros in place of the lead; leave them out if they are few"
        yield about("missing leads", "warning", said, mend, dataset.records["record"].to_numpy(), some)


def absent_leads(dataset: EcgDataset) -> NDArray[np.bool_]:
    """Return which leads the import noted as missing, bool of shape (n, 12)."""
    absent = np.zeros((len(dataset), len(LEADS)), dtype=bool)
    if "missing_leads" in dataset.records:
        for row, text in enumerate(dataset.records["missing_leads"].fillna("").astype(str)):
            for lead in text.split():
                if lead in LEADS:
                    absent[row, LEADS.index(lead)] = True
    return absent


def flat_leads(dataset: EcgDataset, scan: Scan) -> Found:
    """Leads without a beat for two seconds or more: an electrode that was off."""
    names = dataset.records["record"].to_numpy()
    if (dead := scan.dead).any():
        said = f"{counted(int(dead.sum()))} flat throughout"
        yield about("flat records", "warning", said, "take them out before the import", names, dead)
    # Where hardly anything is left of the amplitude, every lead looks flat: that is for the units.
    flat = scan.flat & ~absent_leads(dataset) & plausible(dataset, scan)[:, None]
    some = flat.any(axis=1)
    if some.any():
        said = f"{counted(int(some.sum()))} with a lead that is flat for 2 s or more ({_counted_leads(flat)})"
        mend = "an electrode was off: leave these records out, or name the lead as missing at the import"
        yield about("flat leads", "warning", said, mend, names, some)
    elif not dead.any():
        yield Finding("flat leads", "ok", "none")


def _counted_leads(marked: NDArray[np.bool_]) -> str:
    counts = Counter({lead: int(count) for lead, count in zip(LEADS, marked.sum(axis=0), strict=True) if count})
    return listed(counts.items())


def saturation(dataset: EcgDataset, scan: Scan) -> Found:
    """Leads that stop at one value, where the amplifier or the converter had no more to give."""
    railed = scan.railed & plausible(dataset, scan)[:, None]
    some = railed.any(axis=1)
    if some.any():
        said = f"{counted(int(some.sum()))} saturated: peaks are cut off at one value ({_counted_leads(railed)})"
        mend = f"{LOOK}; leave them out where diagnoses rest on amplitude"
        yield about("saturation", "warning", said, mend, dataset.records["record"].to_numpy(), some)
    else:
        hidden = "; what was cut off before filtering is rounded and hardly seen" if dataset.info.band else ""
        yield Finding("saturation", "ok", f"no peak is cut off{hidden}")


def mains(dataset: EcgDataset, scan: Scan) -> Found:
    """Hum at 50 or 60 Hz."""
    info = dataset.info
    if not any(can_hold(hertz, info.rate, info.band) for hertz in MAINS_HZ):
        said = f"{info.rate} Hz" + (f" and a band to {info.band[1]:g} Hz" if info.band else "")
        yield Finding("mains", "note", f"none can be in signals of {said}")
        return
    in_mv = info.normalisation == "none"
    least, unit = (HUM_MV, " mV") if in_mv else (HUM_SHARE, " of a lead's deviation")
    loud = (np.nan_to_num(scan.mains) >= least) & plausible(dataset, scan)[:, None]
    some = loud.any(axis=1)
    if some.any():
        hertz = MAINS_HZ[int(np.argmax(loud.sum(axis=0)))]
        median = float(np.median(np.nanmax(scan.mains[some], axis=1)))
        said = f"{counted(int(some.sum()))} with {hertz:g} Hz hum, {median:.2g}{unit} in the median"
        mend = "import again with --band 0.5-40, which takes it out"
        yield about("mains", "warning", said, mend, dataset.records["record"].to_numpy(), some)
    else:
        yield Finding("mains", "ok", f"no hum of {least:g}{unit} or more")


def wander(dataset: EcgDataset, scan: Scan) -> Found:
    """Baselines that drift."""
    if dataset.info.normalisation != "none":
        return
    some = (scan.wander >= WANDER_MV) & plausible(dataset, scan)
    if some.any():
        said = f"{counted(int(some.sum()))} whose baseline drifts by {WANDER_MV:g} mV or more"
        mend = "" if dataset.info.band else "import again with --band 0.5-40, which takes most of it out"
        yield about("baseline", "note", said, mend, dataset.records["record"].to_numpy(), some)
    else:
        yield Finding("baseline", "ok", f"no baseline drifts by {WANDER_MV:g} mV")
