"""Calipers: which beat they choose, and that they stand where its waves begin and end."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from core.ecg.delineation import delineation_of_mask
from core.report.calipers import Calipers, choose_calipers, draw_beat
from core.report.ecg_paper import draw_ecg

RATE = 500
NAN = float("nan")
BEAT = Calipers(p_onset=0.8, p_offset=0.9, qrs_onset=0.96, qrs_offset=1.05, t_onset=1.16, t_offset=1.36)


def signal(seconds: float = 10.0) -> np.ndarray:
    """Twelve flat leads: whatever else is on the sheet are calipers."""
    return np.zeros((12, round(seconds * RATE)))


def lines(figure: Figure) -> list[np.ndarray]:
    return [line.get_xydata() for line in figure.axes[0].lines if line.get_gid() == "caliper"]


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if (text.get_gid() or "").startswith("caliper")]


def brackets(figure: Figure) -> list[np.ndarray]:
    """Horizontal lines, from the highest on the sheet to the lowest."""
    level = [points for points in lines(figure) if points[0, 1] == points[1, 1]]
    return sorted(level, key=lambda points: -points[0, 1])


def mask_of(*beats: tuple[int, int, int], samples: int = 5000) -> np.ndarray:
    """P before, QRS at, T after the QRS onset of each beat; (onset, has P, has T)."""
    mask = np.zeros(samples, dtype=np.uint8)
    for onset, has_p, has_t in beats:
        mask[onset - 80 : onset - 30] = has_p
        mask[onset : onset + 45] = 2
        mask[onset + 100 : onset + 200] = 3 * has_t
    return mask


def test_brackets_span_pr_qrs_and_qt():
    assert BEAT.brackets() == {"PR": (0.8, 0.96), "QRS": (0.96, 1.05), "QT": (0.96, 1.36)}
    assert BEAT.bounds == (0.8, 1.36)


def test_a_beat_without_p_wave_has_no_pr_bracket():
    beat = Calipers(NAN, NAN, 0.96, 1.05, 1.16, 1.36)
    assert list(beat.brackets()) == ["QRS", "QT"]
    assert beat.bounds == (0.96, 1.36)
    assert labels(draw_ecg(signal(), RATE, calipers=beat)) == ["QRS 90", "QT 400"] * 2


def test_the_first_beat_that_has_all_waves_is_chosen():
    chosen = choose_calipers(delineation_of_mask(mask_of((500, 0, 1), (1000, 1, 1), (1500, 1, 1))), RATE)
    # The second beat: QRS onset at 1000 samples of 2 ms, P 80 samples before, T until 200 after.
    assert chosen == Calipers(1.84, 1.94, 2.0, 2.09, 2.2, 2.4)


def test_without_pr_p_waves_are_left_out():
    chosen = choose_calipers(delineation_of_mask(mask_of((500, 1, 1))), RATE, with_pr=False)
    assert chosen is not None
    assert list(chosen.brackets()) == ["QRS", "QT"]


def test_a_record_without_beats_has_no_calipers():
    assert choose_calipers(delineation_of_mask(np.zeros(5000)), RATE) is None


def test_on_the_sheet_brackets_stand_at_the_true_times_in_panel_and_strip():
    found = brackets(draw_ecg(signal(), RATE, calipers=BEAT))
    # QT above PR and QRS, in the panel of lead II and again in the strip. The traces begin at 15 mm, at 25 mm/s.
    times = [(np.sort(points[:, 0]) - 15) / 25 for points in found]
    expected = [(0.96, 1.36), (0.8, 0.96), (0.96, 1.05)]
    for half in (times[:3], times[3:]):
        assert sorted(map(tuple, np.round(half, 6))) == sorted(expected)
    assert found[0][0, 1] > found[1][0, 1] > found[3][0, 1]


def test_guides_reach_from_the_bracket_to_the_trace():
    high = signal()
    high[1] += 0.5 * (np.arange(5000) == 480)  # a spike of lead II at the QRS onset, 0.96 s
    figure = draw_ecg(high, RATE, calipers=BEAT)
    at_onset = [points for points in lines(figure) if np.allclose(points[:, 0], 15 + 0.96 * 25)]
    strip_level = min(points[:, 1].max() for points in at_onset)
    assert strip_level == pytest.approx(20 + 5)  # zero line of the strip, and 0.5 mV of 10 mm/mV


def test_a_beat_outside_the_panel_is_drawn_in_the_strip_alone():
    late = Calipers(4.8, 4.9, 4.96, 5.05, 5.16, 5.36)
    assert labels(draw_ecg(signal(), RATE, calipers=late)) == ["PR 160", "QRS 90", "QT 400"]


def test_without_lead_two_nothing_is_drawn():
    figure = draw_ecg(signal()[:1], RATE, leads=["I"], calipers=BEAT)
    assert lines(figure) == []


def test_deep_waves_do_not_push_the_brackets_off_their_row():
    deep = signal()
    deep[1, 400:700] = -3.0
    heights = [points[0, 1] for points in brackets(draw_ecg(deep, RATE, calipers=BEAT))]
    # The strip's zero line is at 20 mm and its footer at 5 mm.
    assert min(heights) > 6.5


def test_sheets_without_calipers_are_as_before():
    assert lines(draw_ecg(signal(), RATE)) == []


def test_the_magnified_beat_shows_every_lead_and_the_intervals_in_ms_from_the_qrs_onset():
    leads = np.cumsum(np.ones((12, 5000)), axis=0) * 0.01
    figure = draw_beat(leads, RATE, BEAT)
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} == {"P", "QRS", "T", "PR 160 ms", "QRS 90 ms", "QT 400 ms"}
    traces = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(traces) == 12
    ms = traces[0].get_xdata()
    assert (ms[0], ms[-1]) == pytest.approx((-240, 500))  # 80 ms before P, 100 ms after T
    level = [line.get_xdata() for line in axes.lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2]
    np.testing.assert_allclose(sorted(map(tuple, level)), [(-160, 0), (0, 90), (0, 400)], atol=1e-9)


def test_a_beat_at_the_very_end_of_a_record_is_drawn_as_far_as_it_goes():
    beat = Calipers(0.01, 0.1, 0.16, 0.25, 0.36, 0.59)
    draw_beat(np.random.default_rng(0).normal(0, 0.1, (12, 300)), RATE, beat).canvas.draw()
