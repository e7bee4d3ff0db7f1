"""A fitted cohort is drawn from as a Gaussian copula is defined, and a changed file is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from tiny_cohorts import DEVIATIONS, MEANS, normal_cohort

from core.errors import DataError
from core.synthetic.cohort import draw_wide
from core.synthetic.sdv_cohort import BOUNDS, COLUMNS, SCORES, CohortFile, cohort_of, load_sdv_cohort


def drawn(correlation: float = 0.0, count: int = 20_000):
    return cohort_of(normal_cohort(correlation)).draw(count, np.random.default_rng(5))


def hash_or_refusal(path: Path) -> str:
    try:
        return load_sdv_cohort(path).hash
    except DataError as error:
        return str(error)


def qt_of(patients) -> np.ndarray:
    return patients.qtc * np.cbrt(60.0 / patients.hr)  # Fridericia


class TestDrawing:
    @pytest.mark.parametrize("column", ["pr", "qrs", "age"])
    def test_a_column_has_the_distribution_that_its_quantiles_describe(self, column):
        values = getattr(drawn(), column)
        expected = stats.norm(MEANS[column], DEVIATIONS[column])
        # With 20,000 draws a right sampler exceeds 0.0196 once in a million times (Kolmogorov's distribution).
        assert stats.kstest(values, expected.cdf).statistic < 0.0196

    def test_rr_is_the_sum_of_its_parts(self):
        patients = drawn()
        rr = 60_000.0 / patients.hr
        assert rr.mean() == pytest.approx(160 + 95 + 300 + 320, abs=3)
        assert rr.std() == pytest.approx(np.sqrt(20**2 + 9**2 + 22**2 + 60**2), rel=0.03)

    @pytest.mark.parametrize("correlation", [-0.7, 0.0, 0.4])
    def test_columns_are_correlated_as_the_file_says(self, correlation):
        patients = drawn(correlation)
        st_t = qt_of(patients) - patients.qrs
        assert np.corrcoef(patients.qrs, st_t)[0, 1] == pytest.approx(correlation, abs=0.03)
        assert np.corrcoef(patients.pr, st_t)[0, 1] == pytest.approx(0.0, abs=0.03)

    def test_sex_is_0_or_1_in_the_share_of_its_quantiles(self):
        sex = drawn().sex
        assert set(sex) == {0.0, 1.0}
        assert sex.mean() == pytest.approx(0.5, abs=0.02)

    def test_what_the_table_does_not_say_is_drawn_as_in_the_wide_cohort(self):
        patients = cohort_of(normal_cohort(columns=COLUMNS[:4])).draw(100, np.random.default_rng(3))
        wide = draw_wide(100, np.random.default_rng(3))
        for measure in ("age", "sex", "rr_variability"):
            assert (getattr(patients, measure) == getattr(wide, measure)).all()

    def test_the_same_generator_state_gives_the_same_patients(self):
        cohort = cohort_of(normal_cohort(0.3))
        first, second, other = (cohort.draw(64, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert (first.hr == second.hr).all()
        assert (first.hr != other.hr).all()

    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_no_patient_is_impossible_whatever_the_quantiles_and_correlations(self, data):
        quantiles = {}
        for column, (low, high) in BOUNDS.items():
            ends = sorted((data.draw(st.floats(low, high)), data.draw(st.floats(low, high))))
            quantiles[column] = np.clip(np.linspace(*ends, len(SCORES)), *ends).tolist()
        root = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(6, 6)) + np.eye(6)
        matrix = root @ root.T + np.eye(6) * 0.1
        scale = np.sqrt(np.diag(matrix))
        matrix = (matrix + matrix.T) / 2 / np.outer(scale, scale)
        np.fill_diagonal(matrix, 1.0)
        file = normal_cohort().model_copy(update={"quantiles": quantiles, "correlation": matrix.tolist()})
        patients = cohort_of(file).draw(500, np.random.default_rng(0))
        rr, qt = 60_000.0 / patients.hr, qt_of(patients)
        assert (patients.pr > 0).all()
        assert (patients.qrs < qt).all()
        assert (patients.pr + qt < rr).all()
        assert (patients.hr >= 30 * (1 - 1e-12)).all()
        assert set(patients.sex) <= {0.0, 1.0}


class TestFile:
    def test_it_comes_back_as_it_was_and_draws_the_same(self, tmp_path):
        file = normal_cohort(0.4)
        file.write(tmp_path / "a.cohort.json")
        cohort = load_sdv_cohort(tmp_path / "a.cohort.json")
        assert (cohort.name, cohort.hash, cohort.columns) == ("normal", file.hash, COLUMNS)
        here, there = (one.draw(50, np.random.default_rng(1)) for one in (cohort_of(file), cohort))
        assert (here.qtc == there.qtc).all()
        assert [path.name for path in tmp_path.iterdir()] == ["a.cohort.json"]

    def test_the_hash_is_of_the_content_not_of_path_or_layout(self, tmp_path):
        file = normal_cohort()
        file.write(tmp_path / "a.cohort.json")
        packed = json.dumps(json.loads((tmp_path / "a.cohort.json").read_text()))
        (tmp_path / "b.cohort.json").write_text(packed)
        assert load_sdv_cohort(tmp_path / "b.cohort.json").hash == file.hash
        assert normal_cohort(0.1).hash != file.hash

    def test_a_changed_file_is_refused(self, tmp_path):
        path = tmp_path / "a.cohort.json"
        normal_cohort().write(path)
        stored = json.loads(path.read_text())
        stored["quantiles"]["pr"][80] += 0.5
        path.write_text(json.dumps(stored))
        with pytest.raises(DataError, match=r"a\.cohort\.json was changed after it was written"):
            load_sdv_cohort(path)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "is not valid JSON"),
            ("[" * 100_000, "is not valid JSON"),
            ("[1]", "is no cohort; make one"),
            ('{"size": 3}', "is no cohort; make one"),
            ('{"sha256": "0", "name": "x"}', "is no cohort that can be drawn from (source: Field required)"),
        ],
    )
    def test_another_file_is_refused_in_one_sentence(self, tmp_path, content, said):
        (tmp_path / "a.cohort.json").write_text(content)
        with pytest.raises(DataError, match=r"a\.cohort\.json") as caught:
            load_sdv_cohort(tmp_path / "a.cohort.json")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            load_sdv_cohort(tmp_path / "none.cohort.json")
        with pytest.raises(DataError, match="cannot be written"):
            normal_cohort().write(tmp_path / "nowhere" / "a.cohort.json")

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=3), end=st.booleans()
    )
    def test_a_damaged_file_is_refused_or_says_the_same(self, tmp_path, places, end):
        path = tmp_path / "a.cohort.json"
        normal_cohort(0.2).write(path)
        content = bytearray(path.read_bytes())
        for place, bit in places:
            content[place % len(content)] ^= 1 << bit
        path.write_bytes(content[: places[0][0] % len(content)] if end else content)
        outcome = hash_or_refusal(path)
        assert outcome == normal_cohort(0.2).hash or (str(path) in outcome and "\n" not in outcome)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"quantiles": {"pr": [160.0] * len(SCORES)}}, "the columns of quantiles"),
            ({"quantiles": normal_cohort().quantiles | {"qrs": [95.0]}}, "the quantiles of qrs"),
            ({"quantiles": normal_cohort().quantiles | {"qrs": [0.095] * len(SCORES)}}, "from 30 to 300"),
            ({"quantiles": normal_cohort().quantiles | {"pr": [float("nan")] * len(SCORES)}}, "finite"),
            ({"quantiles": normal_cohort().quantiles | {"pr": [200.0] + [100.0] * 160}}, "rising"),
            ({"correlation": np.eye(5).tolist()}, "one row and column"),
            ({"correlation": np.ones((6, 6)).tolist()}, "positive definite"),
            ({"correlation": (np.eye(6) * 2).tolist()}, "ones on its diagonal"),
            ({"code": "import os"}, "Extra inputs"),
        ],
    )
    def test_what_cannot_be_drawn_from_is_no_cohort(self, change, said):
        with pytest.raises(ValidationError, match=said):
            CohortFile.model_validate(normal_cohort().model_dump() | change)


def test_drawing_needs_no_sdv(tmp_path):
    normal_cohort().write(tmp_path / "a.cohort.json")
    code = (
        "import sys, pathlib, numpy as np; sys.modules['sdv'] = None; sys.modules['copulas'] = None\n"
        "from core.synthetic.sdv_cohort import load_sdv_cohort\n"
        "print(len(load_sdv_cohort(pathlib.Path(sys.argv[1])).draw(7, np.random.default_rng(0))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.cohort.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.strip(), done.stderr) == ("7", "")
