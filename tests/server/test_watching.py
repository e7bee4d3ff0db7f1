"""One line a round, for people."""

from server.watching import round_summary

ROUND = {"phase": "pretrain", "round": 2, "rounds": 4, "loss": 0.51234, "left_out": []}


def test_errors_stand_with_their_own_units_and_unknown_ones_are_left_out():
    line = {
        **ROUND,
        "mae": {"hr": 1.234, "axis": 8.0, "t": 0.5, "pr": None},
        "unit": {"hr": "bpm", "axis": "deg", "t": "lead SD", "pr": "ms"},
    }
    assert round_summary(line) == "pretrain 2/4  loss 0.5123  hr 1.23 bpm  axis 8.00 deg  t 0.50 lead SD"


def test_the_mask_is_told_by_the_share_of_onsets_found():
    waves = {wave: {"onset": {"sensitivity": share}} for wave, share in (("p", 0.91), ("qrs", 0.998), ("t", None))}
    assert round_summary({**ROUND, "segmentation": waves}).endswith("P, QRS, T found 0.91 1.00 –")


def test_who_was_left_out_and_what_was_spent_stand_at_the_end():
    line = {**ROUND, "phase": "finetune", "loss": None, "macro_auroc": 0.8, "epsilon": {"a": 1.0, "b": 2.5}}
    line["left_out"] = [{"site": "b", "reason": "out-of-memory"}]
    assert round_summary(line) == "finetune 2/4  macro AUROC 0.800  epsilon at most 2.50  left out b (out-of-memory)"
