"""The printed 12-lead ECG: its proportions, its layout, and what it says of the signal."""

from itertools import pairwise

import numpy as np
import pytest
import wfdb
from matplotlib.figure import Figure

from core.ecg.leads import LEADS
from core.errors import DataError
from core.report.ecg_paper import LAYOUT, draw_ecg

RATE = 100


def spikes(amplitude: float = 1.0, *, seconds: float = 10.0, leads: int = 12) -> np.ndarray:
    """Zero but for one sample of `amplitude` in every second, at its middle: (leads, samples)."""
    signal = np.zeros((leads, round(seconds * RATE)))
    signal[:, RATE // 2 :: RATE] = amplitude
    return signal


def millimetres(figure: Figure, points: np.ndarray) -> np.ndarray:
    """Data coordinates as millimetres on the sheet, by the axes' own transform and the figure's size."""
    return figure.axes[0].transData.transform(points) / figure.dpi * 25.4


def traces(figure: Figure) -> list[np.ndarray]:
    """Drawn leads as (points, 2) in data coordinates, without pulses and separators."""
    return [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xdata()) > 6]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_one_millivolt_is_ten_millimetres_and_one_second_is_twenty_five() -> None:
    figure = draw_ecg(spikes(1.0), RATE)
    strip = millimetres(figure, traces(figure)[-1])
    peaks = strip[50::100]
    assert len(peaks) == 10
    np.testing.assert_allclose(peaks[:, 1] - strip[0, 1], 10.0, atol=1e-6)
    np.testing.assert_allclose(np.diff(peaks[:, 0]), 25.0, atol=1e-6)


def test_the_grid_has_heavy_lines_every_five_millimetres_and_fine_ones_every_one() -> None:
    figure = draw_ecg(spikes(), RATE)
    fine, heavy = figure.axes[0].patches
    for patch, step in ((fine, 1.0), (heavy, 5.0)):
        points = millimetres(figure, patch.get_path().vertices)
        for axis in (0, 1):
            np.testing.assert_allclose(np.diff(np.unique(points[:, axis].round(6))), step, atol=1e-5)
    assert heavy.get_linewidth() > fine.get_linewidth()


def test_the_calibration_pulse_is_one_millivolt_for_two_hundred_milliseconds() -> None:
    figure = draw_ecg(spikes(), RATE)
    pulses = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 6]
    assert len(pulses) == 4
    pulse = millimetres(figure, pulses[0])
    assert pulse[:, 1].max() - pulse[:, 1].min() == pytest.approx(10.0)
    top = pulse[pulse[:, 1] > pulse[:, 1].min() + 5]
    assert top[:, 0].max() - top[:, 0].min() == pytest.approx(5.0)  # 0.2 s at 25 mm/s


def test_twelve_leads_stand_in_three_rows_above_a_rhythm_strip_of_lead_two() -> None:
    figure = draw_ecg(spikes(), RATE)
    labels = [text for text in figure.axes[0].texts if text.get_text() in LEADS]
    rows: dict[float, list[tuple[float, str]]] = {}
    for text in labels:
        x, y = text.get_position()
        rows.setdefault(y, []).append((x, text.get_text()))
    drawn = [tuple(name for _, name in sorted(row)) for _, row in sorted(rows.items(), reverse=True)]
    assert drawn == [*LAYOUT, ("II",)]


def test_each_panel_shows_its_own_lead_at_its_own_time() -> None:
    # Every lead is a ramp with its own slope, so that a panel's rise tells the lead.
    ramp = np.arange(10 * RATE) / RATE
    signal = np.array([(index + 1) * 0.01 * ramp for index in range(12)])
    panels = traces(draw_ecg(signal, RATE))[:12]  # row by row
    for panel, name in zip(panels, [name for row in LAYOUT for name in row], strict=True):
        slope = (panel[-1, 1] - panel[0, 1]) / (panel[-1, 0] - panel[0, 0]) * 25 / 10  # mV/s from mm per mm
        assert slope == pytest.approx((LEADS.index(name) + 1) * 0.01)
    row = panels[:4]
    for left, right in pairwise(row):
        assert left[-1, 0] == pytest.approx(right[0, 0])


def test_leads_are_found_by_name_in_any_order_and_case() -> None:
    signal = np.random.default_rng(0).normal(0, 0.3, (12, 1000))
    order = np.random.default_rng(1).permutation(12)
    plain = traces(draw_ecg(signal, RATE))
    mixed = traces(draw_ecg(signal[order], RATE, leads=[LEADS[i].upper() for i in order]))
    for left, right in zip(plain, mixed, strict=True):
        np.testing.assert_array_equal(left, right)


def test_speed_and_gain_are_printed_and_a_title_is_taken_as_it_is() -> None:
    found = texts(draw_ecg(spikes(), 500, title="$x$ 50%"))
    assert "25 mm/s\u200310 mm/mV\u2003500 Hz" in found
    assert "$x$ 50%" in found


def test_a_signal_without_millivolts_says_so_and_has_no_millivolt_pulse() -> None:
    figure = draw_ecg(spikes(8.0), RATE, units="z")
    footer = next(text for text in texts(figure) if "mm/s" in text)
    assert "normalised units" in footer
    assert "mV" not in footer
    assert not [line for line in figure.axes[0].lines if len(line.get_xdata()) == 6]
    # 10 spikes are 1 % of the samples, so the 99.5 % quantile is 8 units: 1 mm a unit gives 8 mm, 2 mm more
    # than the 15 mm that a row has
    assert "(1 mm per unit)" in footer


@pytest.mark.parametrize("seconds", [0.5, 2.5, 4.0, 9.5])
def test_a_short_record_shows_every_lead_and_says_its_length(seconds: float) -> None:
    figure = draw_ecg(spikes(seconds=seconds), RATE)
    panels = traces(figure)
    assert len(panels) == 13
    assert all(len(panel) >= min(seconds, 2.5) * RATE for panel in panels)
    assert any(f"{seconds:.3g} s recorded" in text for text in texts(figure))


def test_of_a_long_record_the_first_ten_seconds_are_drawn() -> None:
    figure = draw_ecg(spikes(seconds=30), RATE)
    strip = traces(figure)[-1]
    assert strip[-1, 0] - strip[0, 0] == pytest.approx(250.0)
    assert "first 10 s of 30 s" in texts(figure)


def test_absent_leads_leave_a_named_gap() -> None:
    figure = draw_ecg(spikes(leads=8), RATE, leads=("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"))
    assert len(traces(figure)) == 9
    assert {"III (absent)", "aVR (absent)", "aVL (absent)", "aVF (absent)"} <= set(texts(figure))


def test_a_lead_that_is_all_nan_is_no_obstacle() -> None:
    signal = spikes()
    signal[3] = np.nan
    draw_ecg(signal, RATE, units="z").canvas.draw()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"units": "uV"}, "units 'uV'"),
        ({"rate": 0}, "0 Hz"),
        ({"signal": np.zeros((12,))}, "shape"),
        ({"signal": np.zeros((8, 100))}, "12 leads"),
        ({"leads": (*LEADS[:11], "V9")}, "'V9'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(change: dict, told: str) -> None:
    call = {"signal": spikes(), "rate": RATE} | change
    with pytest.raises(DataError, match=told):
        draw_ecg(call.pop("signal"), call.pop("rate"), **call)


@pytest.mark.real_data
def test_a_real_record_keeps_within_its_sheet(real_data) -> None:
    record = wfdb.rdrecord(str(next((real_data / "ptbxl-500").rglob("00008_hr.hea")).with_suffix("")))
    figure = draw_ecg(record.p_signal.T, record.fs, leads=record.sig_name, title="PTB-XL 8")
    drawn = np.concatenate(traces(figure))
    width, height = figure.get_size_inches() * 25.4
    assert drawn[:, 0].max() <= width
    assert 0 <= drawn[:, 1].min() <= drawn[:, 1].max() <= height
