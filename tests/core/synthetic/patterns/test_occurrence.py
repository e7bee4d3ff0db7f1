"""How often superclasses occur together."""

import pytest

from core.synthetic.patterns.occurrence import TOGETHER

RECORDS = {"NORM": 9514, "MI": 5469, "STTC": 5235, "CD": 4898, "HYP": 2649}
"""Records of each superclass in PTB-XL 1.0.3, as its page at PhysioNet states them."""


@pytest.mark.parametrize("name", RECORDS)
def test_sets_of_superclasses_add_up_to_the_records_of_each_but_for_the_rare_sets_left_out(name):
    found = sum(records for together, records in TOGETHER.items() if name in together)
    assert 0 <= RECORDS[name] - found <= 10
