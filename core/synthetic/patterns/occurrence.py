"""Which superclasses occur together, and which morphologies cannot."""

TOGETHER = {
    ("NORM",): 9069,
    ("MI",): 2532,
    ("STTC",): 2400,
    ("CD",): 1708,
    ("MI", "CD"): 1297,
    ("STTC", "HYP"): 781,
    ("MI", "STTC"): 599,
    ("HYP",): 535,
    ("STTC", "CD"): 471,
    ("NORM", "CD"): 407,
    ("MI", "STTC", "HYP"): 361,
    ("CD", "HYP"): 300,
    ("MI", "STTC", "CD"): 223,
    ("STTC", "CD", "HYP"): 211,
    ("MI", "HYP"): 183,
    ("MI", "STTC", "CD", "HYP"): 156,
    ("MI", "CD", "HYP"): 117,
    ("NORM", "STTC"): 28,
}
"""Records of PTB-XL 1.0.3 with exactly these superclasses (Wagner et al., Scientific Data 2020), rarer sets left out."""

CONTRADICTIONS = (
    ("lbbb", "rbbb", "incomplete_lbbb", "incomplete_rbbb", "ivcd", "wpw"),
    ("lbbb", "incomplete_lbbb", "lafb", "lpfb", "wpw"),
    ("av_block_1", "wenckebach", "mobitz_2", "complete_block", "wpw", "atrial_fibrillation", "atrial_flutter"),
    ("av_block_1", "wenckebach", "mobitz_2", "complete_block", "sinus_tachycardia", "premature_atrial"),
    ("sinus_bradycardia", "sinus_tachycardia", "atrial_fibrillation", "atrial_flutter", "complete_block"),
    ("sinus_arrhythmia", "sinus_tachycardia", "atrial_fibrillation", "atrial_flutter", "complete_block"),
    ("atrial_fibrillation", "atrial_flutter", "premature_atrial"),
    ("long_qt", "sinus_tachycardia"),
    ("left_atrial", "atrial_fibrillation", "atrial_flutter"),
    ("right_atrial", "atrial_fibrillation", "atrial_flutter"),
    ("lvh", "lvh_strain", "rvh"),
    ("left_axis", "vertical_axis", "right_axis"),
)
"""Of each group a heart can have one: a diagnosis rather than a rhythm, and of several the severest."""
