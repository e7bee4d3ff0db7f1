"""Which sites are asked in which round."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from server.participation import drawn_sites

SITES = [f"site-{number}" for number in range(20)]


def draws(sites=SITES, **changes) -> list[list[str]]:
    how = {"fraction": 0.25, "least": 1, "rounds": 200, "seed": 0, "phase": "finetune/classifier"}
    return drawn_sites(sites, **(how | changes))


@given(
    count=st.integers(1, 30),
    fraction=st.floats(0, 1, exclude_min=True),
    least=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_rounds_have_so_many_sites_each_once_and_in_order(count, fraction, least, seed):
    sites = [f"s{number:02d}" for number in range(count)]
    for drawn in draws(sites, fraction=fraction, least=least, seed=seed, rounds=5):
        assert len(drawn) == min(count, max(least, round(fraction * count), 1))
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= set(sites)


def test_all_of_them_are_everybody_in_every_round():
    assert draws(fraction=1.0, rounds=3) == [SITES] * 3


def test_a_longer_campaign_begins_with_the_rounds_of_a_shorter_one():
    assert draws(rounds=200)[:50] == draws(rounds=50)


def test_each_round_seed_and_phase_has_its_own():
    assert len({tuple(drawn) for drawn in draws()}) > 190
    assert draws() != draws(seed=1)
    assert draws() != draws(phase="pretrain/shared")


def test_every_site_is_drawn_equally_often():
    times = Counter(site for drawn in draws() for site in drawn)
    # 200 rounds of 5 of 20: binomial(200, 1/4), mean 50 and standard deviation 6.1; five of these either way.
    assert set(times) == set(SITES)
    assert all(20 < count < 80 for count in times.values())
