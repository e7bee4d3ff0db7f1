"""What a private site spends that is asked in some rounds alone: noise for those, and the budget holds whatever comes."""

from dataclasses import replace

import pytest
from test_site_privacy import reason_of, records, round_of, site_of  # noqa: F401

from core.tasks import Reason

ROUNDS = 12


def asked(number: int, left: int):
    return replace(round_of(number, ROUNDS), rounds_left=left)


class TestNoise:
    def test_is_that_of_a_campaign_of_as_many_rounds_as_the_site_is_asked_in(self, records, tmp_path):  # noqa: F811
        drawn, short = site_of(records, tmp_path / "drawn"), site_of(records, tmp_path / "short")
        told = [drawn.run(asked(number, left)).numbers for number, left in ((3, 3), (4, 2), (9, 1))]
        three = [short.run(round_of(number, 3)).numbers for number in (1, 2, 3)]
        for one, other in zip(told, three, strict=True):
            assert one["noise_multiplier"] == other["noise_multiplier"]
            assert one["epsilon"] == other["epsilon"]
        assert 0.9 * 6 < told[-1]["epsilon"] <= 6

    def test_is_for_all_that_are_left_where_nothing_is_said(self, records, tmp_path):  # noqa: F811
        drawn, all_ = site_of(records, tmp_path / "drawn"), site_of(records, tmp_path / "all")
        few, many = (site.run(asked(1, left)).numbers["noise_multiplier"] for site, left in ((drawn, 3), (all_, 0)))
        assert many > 1.2 * few

    def test_the_tighter_epsilon_is_told_in_the_last_round_that_the_site_is_asked_in(self, records, tmp_path):  # noqa: F811
        site = site_of(records, tmp_path)
        assert ["epsilon_prv" in site.run(asked(n, left)).numbers for n, left in ((3, 2), (4, 1))] == [False, True]


class TestCoordinator:
    def test_that_asks_more_often_than_it_said_gets_more_noise_and_then_nothing(self, records, tmp_path):  # noqa: F811
        site = site_of(records, tmp_path)
        first, second = (site.run(asked(number, 1)).numbers for number in (1, 2))
        assert first["noise_multiplier"] < second["noise_multiplier"]
        assert first["epsilon"] <= second["epsilon"] <= 6
        assert reason_of(site, asked(3, 1)) == Reason.BUDGET_EXHAUSTED

    @pytest.mark.parametrize("left", [-1, ROUNDS - 1, 10**9])
    def test_that_announces_more_rounds_than_there_are_is_refused_and_costs_nothing(self, records, tmp_path, left):  # noqa: F811
        site = site_of(records, tmp_path)
        assert reason_of(site, asked(3, left)) == Reason.BAD_REQUEST
        assert site.private.ledger.entries() == []
