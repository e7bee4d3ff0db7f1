"""Which records the hospital behind a simulated node holds: all of them, some of them, and with fewer patients."""

import numpy as np
import pytest
from tiny_campaigns import tiny

from clients.hospital import Federation, open_federation
from core.ecg.dataset import EcgDataset
from core.ecg.importing import import_source
from core.ecg.merging import merge
from core.errors import ConfigError
from core.synthetic.hospitals import simulated_hospitals

SPREAD = ("data.simulated_patients=60", "federation.sites=4", "finetune.batch_size=4")


def opened(folder, *changes: str) -> Federation:
    return open_federation(tiny(folder, *SPREAD, *changes))


def patients(federation: Federation, number: int) -> set[str]:
    rows = federation.hospitals[number].train
    return set(federation.dataset.records["patient"].to_numpy()[rows])


class TestMembers:
    def test_hold_what_they_hold_among_all(self, tmp_path):
        everyone, some = opened(tmp_path), opened(tmp_path, "federation.members=[3, 1]")
        assert [hospital.name for hospital in some.hospitals] == [everyone.hospitals[n].name for n in (1, 3)]
        for hospital, number in zip(some.hospitals, (1, 3), strict=True):
            np.testing.assert_array_equal(hospital.train, everyone.hospitals[number].train)
            np.testing.assert_array_equal(hospital.test, everyone.hospitals[number].test)

    def test_keep_their_fewer_patients_whoever_else_takes_part(self, tmp_path):
        fewer = "federation.max_patients=10"
        everyone, one = opened(tmp_path, fewer), opened(tmp_path, fewer, "federation.members=[2]")
        assert patients(everyone, 2) == patients(one, 0)


class TestFewerPatients:
    def test_are_among_the_more_and_as_many_as_asked_for(self, tmp_path):
        ten, twenty, all_ = (opened(tmp_path, f"federation.max_patients={most}") for most in (10, 20, 0))
        for number in range(4):
            assert len(patients(ten, number)) == 10
            assert len(patients(twenty, number)) == 20
            assert patients(ten, number) < patients(twenty, number) < patients(all_, number)

    def test_keep_all_their_records_and_leave_the_test_records_alone(self, tmp_path):
        ten, all_ = opened(tmp_path, "federation.max_patients=10"), opened(tmp_path)
        of = all_.dataset.records["patient"].to_numpy()
        for fewer, every in zip(ten.hospitals, all_.hospitals, strict=True):
            np.testing.assert_array_equal(fewer.test, every.test)
            np.testing.assert_array_equal(fewer.train, every.train[np.isin(of[every.train], of[fewer.train])])

    def test_are_others_under_another_seed(self, tmp_path):
        # Real records would be the same under every seed; the simulated ones differ in signal alone, not in name.
        one, other = (opened(tmp_path, "federation.max_patients=10", f"run.seed={seed}") for seed in (0, 1))
        assert patients(one, 0) != patients(other, 0)

    def test_more_than_there_are_changes_nothing(self, tmp_path):
        more, all_ = opened(tmp_path, "federation.max_patients=100000"), opened(tmp_path)
        for one, other in zip(more.hospitals, all_.hospitals, strict=True):
            np.testing.assert_array_equal(one.train, other.train)

    def test_too_few_for_a_batch_are_refused_with_the_mend(self, tmp_path):
        with pytest.raises(
            ConfigError, match=r"federation.max_patients = 4 leaves .* lower the one or raise the other"
        ):
            opened(tmp_path, "federation.max_patients=4", "finetune.batch_size=16")


class TestSeveralSets:
    def test_merged_under_their_names_are_a_hospital_each(self, tmp_path):
        rng = np.random.default_rng(0)
        for name, count in (("one", 80), ("two", 120), ("three", 100)):
            made = simulated_hospitals(hospitals=1, patients=count, seed=int(rng.integers(100)))
            own = made.records.assign(**{key: f"{name}-" + made.records[key] for key in ("record", "patient")})
            EcgDataset(made.signals, own, made.info).write(tmp_path / name)
        merge(tmp_path / "one", tmp_path / "two", tmp_path / "both", site_a="one", site_b="two")
        merge(tmp_path / "both", tmp_path / "three", tmp_path / "all", site_b="three")
        by_set = (f"data.path={tmp_path / 'all'}", "federation.partition=site-column", "federation.sites=3")
        federation = opened(tmp_path, *by_set)
        assert [hospital.name for hospital in federation.hospitals] == ["site-one", "site-three", "site-two"]
        record, labelled = federation.dataset.records["record"].to_numpy(), federation.dataset.labelled
        for hospital in federation.hospitals:
            held = record[np.concatenate([hospital.train, hospital.test])]
            name = hospital.name.removeprefix("site-")
            assert set(held) == {each for each in record[labelled] if each.startswith(f"{name}-")}


@pytest.mark.real_data
def test_real_records_are_spread_by_the_device_that_recorded_them(real_data, tmp_path):
    import_source("ptbxl", real_data / "ptbxl-500", tmp_path / "set", source_rate=500)
    by_device = (f"data.path={tmp_path / 'set'}", "federation.partition=column", "federation.sites=3")
    federation = opened(tmp_path, *by_device, "data.train_folds=[1, 2, 3, 4, 5, 6, 7]", "data.test_folds=[8, 9, 10]")
    assert [hospital.name for hospital in federation.hospitals] == [
        "device-AT-6 C",
        "device-AT-6 C 5.5",
        "device-CS-12 E",
    ]
    by_age = opened(tmp_path, *by_device, "federation.column=age", "federation.sites=4")
    sizes = [len(patients(by_age, number)) for number in range(4)]
    assert max(sizes) < 1.3 * min(sizes)


class TestRefusals:
    def test_of_a_member_that_is_no_site_name_it(self, tmp_path):
        with pytest.raises(ConfigError, match=r"names site 4 though federation.sites is 4; name sites from 0 to 3"):
            tiny(tmp_path, "federation.sites=4", "federation.members=[0, 4]")

    def test_of_more_needed_sites_than_members_say_so(self, tmp_path):
        with pytest.raises(ConfigError, match=r"min_sites 2 is more than the number of federation.members 1; lower"):
            tiny(tmp_path, "federation.members=[1]", "federation.min_sites=2")


class TestOneComparison:
    """What is private and what is not holds the same records wherever a batch fits into every hospital."""

    def test_with_privacy_and_without_the_hospitals_are_the_same(self, real_data, tmp_path):
        import_source("ptbxl", real_data / "ptbxl-500", tmp_path / "set")
        # At this skew some draws give a hospital fewer records than a batch.
        skewed = (f"data.path={tmp_path / 'set'}", "federation.alpha=0.3", "finetune.batch_size=40")
        for seed in range(5):
            plain, private = (
                opened(tmp_path, *skewed, f"run.seed={seed}", f"privacy.enabled={enabled}", "privacy.delta=0.001")
                for enabled in ("false", "true")
            )
            assert min(len(hospital.train) for hospital in plain.hospitals) >= 40
            for one, other in zip(plain.hospitals, private.hospitals, strict=True):
                np.testing.assert_array_equal(one.train, other.train)

    def test_where_no_batch_fits_private_training_has_its_hospitals_all_the_same(self, tmp_path):
        large = "finetune.batch_size=5000"
        with pytest.raises(ConfigError, match="larger than the cohort"):
            opened(tmp_path, large)
        assert len(opened(tmp_path, large, "privacy.enabled=true", "privacy.delta=0.001").hospitals) == 4
