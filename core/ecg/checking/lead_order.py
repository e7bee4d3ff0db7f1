"""Findings about leads that contradict each other and electrodes that were taken for each other, of records and of sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from core.ecg.checking.electrodes import DERIVED_LEADS, LIMB_SWAPS, SWAPS, limb_contradiction, second_moments
from core.ecg.checking.findings import LOOK, Finding, about, counted, listed
from core.ecg.checking.scan import Scan
from core.ecg.checking.signals import absent_leads, plausible
from core.ecg.dataset import EcgDataset
from core.ecg.leads import LEADS

CONTRADICTION, CONTRADICTION_BY_SHAPE = 0.2, 0.3
"""From which on limb leads contradict each other; 0.06 and 0.17 at most in 500 open records of PTB-XL."""

SWAPPED, PAIR_SWAPPED = 0.75, 0.6
"""Below which a record's ratio counts as a swap: of limb electrodes and V1 to V6 in reverse, and of two chest electrodes."""

MOST = 0.5
"""Share of records from which a fault is one of the set, or of a site."""

FEWEST = 10
"""Records that say something about a site."""

_HINTS_FROM = 50
_NAMES = tuple(SWAPS)
_LIMITS = np.array([PAIR_SWAPPED if name.count("V") == 2 and "reverse" not in name else SWAPPED for name in _NAMES])
_LIMB = np.array([name in LIMB_SWAPS for name in _NAMES])

Found = Iterator[Finding]


def lead_findings(dataset: EcgDataset, scan: Scan) -> Found:
    """Whether the leads of a record are what they are called."""
    yield from einthoven(dataset, scan)
    yield from swaps(dataset, scan)


def einthoven(dataset: EcgDataset, scan: Scan) -> Found:
    """Limb leads that contradict each other: III = II - I, and aVR, aVL, aVF from the same two."""
    proportional = dataset.info.normalisation != "lead-zscore"
    away, limit = (
        (scan.contradiction, CONTRADICTION) if proportional else (scan.contradiction_by_shape, CONTRADICTION_BY_SHAPE)
    )
    # A lead that is flat, or zeros in place of one that is missing, contradicts the others and says nothing by it.
    whole = ~(scan.flat | absent_leads(dataset))[:, :6].any(axis=1)
    judged = plausible(dataset, scan) & whole & np.isfinite(away).all(axis=1)
    if not judged.any():
        yield Finding("limb leads", "note", "no record has all six: whether they agree cannot be known")
        return
    bad = judged & (np.where(judged[:, None], away, 0) > limit).any(axis=1)
    if not bad.any():
        yield Finding("limb leads", "ok", "I, II, III, aVR, aVL and aVF agree with each other")
        return
    which = Counter(DERIVED_LEADS[lead] for lead in np.argmax(away[bad], axis=1))
    said = f"{counted(int(bad.sum()))} whose limb leads contradict I and II ({listed(which.items())})"
    if bad.sum() <= MOST * judged.sum():
        mend = f"{LOOK}: an electrode was off, or leads are named wrongly; leave them out"
        yield about("limb leads", "warning", said, mend, dataset.records["record"].to_numpy(), bad)
        return
    mend = _why(dataset, scan, np.flatnonzero(bad)) if proportional else "check the names and the order of the leads"
    yield about("limb leads", "error", said, f"{mend}; import the set again", dataset.records["record"].to_numpy(), bad)


def _why(dataset: EcgDataset, scan: Scan, rows: NDArray[np.intp]) -> str:
    """What would make the limb leads agree, from some of the records that contradict themselves."""
    few = rows[:: max(1, len(rows) // _HINTS_FROM)]
    moments = second_moments(dataset.batch(few, dataset.info.normalisation), dataset.info.rate)
    best = {}
    for lead in range(6):
        signs = np.ones(12)
        signs[lead] = -1
        best[f"{LEADS[lead]} seems to be upside down"] = moments * signs[:, None] * signs
    for one, other in combinations(range(6), 2):
        order = list(range(12))
        order[one], order[other] = other, one
        best[f"{LEADS[one]} and {LEADS[other]} seem to be named for each other"] = moments[:, order][:, :, order]
    left = {said: float(np.nanmedian(limb_contradiction(tried).max(axis=1))) for said, tried in best.items()}
    likely = min(left, key=lambda said: left[said])
    if left[likely] < CONTRADICTION / 2:
        return likely
    if np.nanmedian(scan.contradiction_by_shape[rows].max(axis=1)) < CONTRADICTION_BY_SHAPE / 4:
        return "each lead seems to have a gain of its own, so that amplitudes are lost (then use lead-zscore)"
    return "check names, order and gains of the leads"


def swaps(dataset: EcgDataset, scan: Scan) -> Found:
    """Electrodes that were taken for each other, in most records of the set or of a site, and in single records."""
    judged = plausible(dataset, scan) & np.isfinite(scan.swaps).all(axis=1) & ~absent_leads(dataset).any(axis=1)
    if not judged.any():
        yield Finding("lead order", "note", "no record has all leads: whether electrodes are swapped cannot be known")
        return
    ratios = np.where(judged[:, None], scan.swaps, np.inf)
    names = dataset.records["record"].to_numpy()
    best = np.argmin(ratios, axis=1)
    explained = np.zeros(len(scan), dtype=bool)
    for where, members in _groups(dataset, judged):
        if explained[members].any():
            continue
        better = members[ratios[members].min(axis=1) < 1]
        counts = np.bincount(best[better], minlength=len(_NAMES))
        swap = int(np.argmax(counts))
        if len(members) >= FEWEST and counts[swap] > MOST * len(members):
            said = f"{counts[swap]} of {counted(len(members))}{where} fit a heart better with {_changed(swap)}"
            mend = "electrodes, or names of leads, are swapped there: put them in order and import the set again"
            yield about("lead order", "error", said, mend, names, better[best[better] == swap])
            explained[members] = True
    single = ~explained & (ratios / _LIMITS < 1).any(axis=1)
    likely = np.argmin(ratios / _LIMITS, axis=1)
    for title, of_limbs in (("limb electrodes", True), ("chest electrodes", False)):
        some = single & (_LIMB[likely] == of_limbs)
        if some.any():
            which = listed(Counter(_NAMES[swap] for swap in likely[some]).items())
            said = f"{counted(int(some.sum()))} with electrodes that seem to be swapped ({which})"
            mend = f"{LOOK}, and leave out what is swapped; "
            mend += "dextrocardia looks the same" if of_limbs else "some infarctions look the same"
            yield about(title, "warning", said, mend, names, some)
    if not single.any() and not explained.any():
        yield Finding("lead order", "ok", "no electrodes seem to be swapped")


def _groups(dataset: EcgDataset, judged: NDArray[np.bool_]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """The whole set, and then each of its sites."""
    yield "", np.flatnonzero(judged)
    sites = dataset.records["site"].to_numpy()
    for site in dict.fromkeys(sites[judged]):
        if site != "":
            yield f" of site {site}", np.flatnonzero(judged & (sites == site))


def _changed(swap: int) -> str:
    return _NAMES[swap] if "reverse" in _NAMES[swap] else f"{_NAMES[swap]} changed over"
