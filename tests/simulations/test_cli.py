"""The commands beside ``simulate``, and what they load."""

import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from tiny_campaigns import call, cardiofed, numbers_of, only_run, written

from core.synthetic.hospitals import simulated_hospitals
from server.cli import app as server_command

COMMANDS = {"cardiofed": "simulations.cli", "cardiofed-site": "clients.cli", "cardiofed-server": "server.cli"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    ended = cardiofed("simulate", written(out))
    assert ended.code == 0
    (out / "shown.txt").write_text(ended.out)
    return only_run(out)


@pytest.fixture(scope="module")
def signal():
    """One record, 12 x 1000, in mV."""
    return simulated_hospitals(hospitals=1, patients=2, seed=3).batch([0], "none")[0]


class TestHelp:
    @pytest.mark.parametrize("module", COMMANDS.values())
    def test_it_loads_nothing_heavy(self, module):
        code = (
            f"import sys\nfrom {module} import app\nfrom typer.main import get_command\n"
            "try:\n    get_command(app).main(['--help'])\nexcept SystemExit as ending:\n    assert not ending.code\n"
            "heavy = {'torch', 'flwr', 'pandas', 'opacus', 'scipy', 'sklearn', 'matplotlib', 'wfdb', 'ray'}\n"
            "print('loaded:', sorted(heavy & set(sys.modules)))"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert shown.stdout.splitlines()[-1] == "loaded: []"
        assert "Usage:" in shown.stdout


class TestSimulate:
    def test_it_prints_errors_beside_the_median_guess_the_area_and_the_report(self, run):
        shown = (run.parents[1] / "shown.txt").read_text().splitlines()
        results = numbers_of(run)
        hr = results["regression"]["shared"]["hr"]
        assert shown[0].startswith(
            f"pretraining error, shared: hr {hr['mae']:.2f} bpm (median guess {hr['median_mae']:.1f}), pr "
        )
        assert f"macro AUROC: {results['classification']['macro']['auroc']:.3f}" in shown[1]
        assert shown[1].endswith(f"on {results['classification']['records']} test records")
        assert shown[2] == f"report: {run / 'report.html'}"

    def test_the_run_folder_is_whole(self, run):
        names = {path.name for path in run.iterdir()}
        assert names >= {
            "config.toml", "run.json", "metrics.jsonl", "results.json", "model.safetensors", "model.json",
            "examples.npz", "report.html",
        }  # fmt: skip
        record = json.loads((run / "run.json").read_text())
        assert record["status"] == "done"
        assert record["data"]["simulated"] is True
        assert record["devices"] == {"site-0": "cpu", "site-1": "cpu"}
        with np.load(run / "examples.npz") as examples:
            assert examples["signals"].shape == (4, 12, 1000)
            assert str(examples["units"]) == "mV"
            assert ((examples["probabilities"] > 0) & (examples["probabilities"] < 1)).all()

    def test_backbones_are_reused_without_pretraining(self, run, tmp_path):
        ended = cardiofed("simulate", written(tmp_path), "--set", f"pretrain.from_run={run}")
        assert ended.code == 0
        assert "pretrain shared" not in ended.err
        assert numbers_of(only_run(tmp_path)) == numbers_of(run) | {
            "sites": [{**row, "rounds_answered": 2} for row in numbers_of(run)["sites"]]
        }

    def test_sites_that_keep_their_results_leave_a_private_run_without_figures(self, tmp_path):
        withheld = [f"privacy.{item}=withheld" for item in ("evaluation", "counts", "loss")]
        changes = ("privacy.enabled=true", "privacy.sampling_rate=0.5", "pretrain.enabled=false", *withheld)
        ended = cardiofed("simulate", written(tmp_path, *changes))
        assert ended.code == 0
        assert "macro AUROC: not released by the sites" in ended.out
        results = numbers_of(only_run(tmp_path))
        assert results["classification"] is None
        for row in results["sites"]:
            assert set(row) == {"name", "device", "rounds_answered", "left_out"}
        lines = [json.loads(x) for x in (only_run(tmp_path) / "metrics.jsonl").read_text().splitlines()]
        assert [line["loss"] for line in lines] == [None, None]
        told = [site["epsilon"] for site in results["privacy"]["sites"]]
        printed = [float(line.split("epsilon ")[1].split()[0]) for line in ended.out.splitlines() if "privacy," in line]
        assert all(0 <= shown - exact < 0.01 for shown, exact in zip(printed, told, strict=True))


class TestReportAndStatus:
    def test_a_report_is_written_again(self, run):
        (run / "report.html").unlink()
        ended = cardiofed("report", run)
        assert (ended.code, ended.out) == (0, f"report: {run / 'report.html'}\n")
        assert (run / "report.html").stat().st_size > 10_000

    def test_a_report_of_no_run(self, tmp_path):
        ended = cardiofed("report", tmp_path)
        assert ended.code == 2
        assert "is no run folder" in ended.sentence

    def test_status_tells_each_round(self, run):
        shown = call(server_command, "status", run)
        assert shown.code == 0
        first, *rounds = shown.out.splitlines()
        assert first.startswith("tiny: done, started ")
        assert [line.split("  ")[0] for line in rounds] == ["pretrain 1/1", "finetune 1/2", "finetune 2/2"]

    def test_status_of_no_run(self, tmp_path):
        ended = call(server_command, "status", tmp_path)
        assert ended.code == 2
        assert "is no run folder" in ended.sentence


class TestPredict:
    def predict(self, run, tmp_path, array, *words):
        np.save(tmp_path / "ecg.npy", array)
        return cardiofed("predict", run, tmp_path / "ecg.npy", "--figure", tmp_path / "ecg.png", *words)

    def test_an_array_gets_five_probabilities_and_a_figure(self, run, tmp_path, signal):
        ended = self.predict(run, tmp_path, signal)
        assert ended.code == 0
        *classes, last = ended.out.splitlines()
        assert [line.split()[0] for line in classes] == ["NORM", "MI", "STTC", "CD", "HYP"]
        assert all(0 <= float(line.split()[1].rstrip("%")) <= 100 for line in classes)
        assert last == f"figure: {tmp_path / 'ecg.png'}"
        assert matplotlib.image.imread(tmp_path / "ecg.png").shape[0] > 300

    def test_eight_leads_give_what_twelve_give(self, run, tmp_path, signal):
        from simulations.prediction import predict_record

        twelve, eight = tmp_path / "twelve.npy", tmp_path / "eight.npy"
        independent = signal[[0, 1, 6, 7, 8, 9, 10, 11]]
        first, second = independent[0], independent[1]
        # Einthoven and Goldberger: III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2.
        derived = [second - first, -(first + second) / 2, first - second / 2, second - first / 2]
        np.save(twelve, np.concatenate([independent[:2], derived, independent[2:]]))
        np.save(eight, independent)
        told = [predict_record(run, path).probabilities for path in (twelve, eight)]
        assert told[0] == pytest.approx(told[1], abs=1e-5)

    def test_an_array_at_another_rate_is_resampled(self, run, tmp_path, signal):
        from scipy.signal import resample_poly

        from simulations.prediction import predict_record

        np.save(tmp_path / "100.npy", signal)
        np.save(tmp_path / "500.npy", resample_poly(signal, 5, 1, axis=1))
        slow, fast = (predict_record(run, tmp_path / name) for name in ("100.npy", "500.npy"))
        assert (slow.rate, fast.rate) == (100, 500)
        assert fast.probabilities == pytest.approx(slow.probabilities, abs=0.02)

    def test_the_figure_is_named_after_the_record_where_nothing_else_is_said(self, run, tmp_path, signal, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.save("someone.npy", signal)
        assert cardiofed("predict", run, "someone.npy").code == 0
        assert (tmp_path / "someone.png").is_file()

    def refused(self, run, tmp_path, array, *words) -> str:
        ended = self.predict(run, tmp_path, array, *words)
        assert ended.code == 2
        assert ended.out == ""
        assert not (tmp_path / "ecg.png").exists()
        return ended.sentence

    def test_a_run_that_is_missing(self, tmp_path, signal):
        assert "holds no model.json; name the folder of a finished run" in self.refused(
            tmp_path / "nowhere", tmp_path, signal
        )

    @pytest.mark.parametrize("name", ["lost.npy", "lost", "lost.hea"])
    def test_a_record_that_is_missing(self, run, tmp_path, name):
        ended = cardiofed("predict", run, tmp_path / name)
        assert ended.code == 2
        assert "lost" in ended.sentence

    def test_samples_that_are_no_number(self, run, tmp_path, signal):
        broken = signal.copy()
        broken[7, 10] = np.nan
        sentence = self.refused(run, tmp_path, broken)
        assert "V2 has samples that are no number" in sentence

    def test_a_flat_lead(self, run, tmp_path, signal):
        flat = signal.copy()
        flat[3] = 0
        assert "lead aVR is flat" in self.refused(run, tmp_path, flat)

    @pytest.mark.parametrize("shape", [(1000, 12), (3, 1000), (12,), (1, 12, 1000), (12, 0)])
    def test_another_shape(self, run, tmp_path, shape):
        sentence = self.refused(run, tmp_path, np.ones(shape, np.float32))
        assert f"has shape {shape}; give 12 (or 8) leads x samples" in sentence

    def test_a_single_sample(self, run, tmp_path, signal):
        assert "lead I is flat" in self.refused(run, tmp_path, signal[:, :1])

    def test_what_is_no_array_of_numbers(self, run, tmp_path):
        assert "which are no samples" in self.refused(run, tmp_path, np.full((12, 1000), "x"))
        (tmp_path / "ecg.npy").write_bytes(b"not an array")
        ended = cardiofed("predict", run, tmp_path / "ecg.npy")
        assert ended.code == 2
        assert "is no array that numpy can read" in ended.sentence

    @pytest.mark.parametrize("rate", ["0", "-5"])
    def test_an_impossible_rate(self, run, tmp_path, signal, rate):
        ended = self.predict(run, tmp_path, signal, "--rate", rate)
        assert ended.code == 2
        assert "--rate" in ended.err
        assert not (tmp_path / "ecg.png").exists()

    def test_a_figure_that_cannot_be_written(self, run, tmp_path, signal):
        np.save(tmp_path / "ecg.npy", signal)
        ended = cardiofed("predict", run, tmp_path / "ecg.npy", "--figure", tmp_path / "no" / "where.png")
        assert ended.code == 2
        assert "where.png" in ended.sentence

    @pytest.mark.real_data
    def test_a_wfdb_record(self, run, tmp_path, real_data):
        header = sorted((real_data / "ptbxl-500").rglob("*_hr.hea"))[0]
        told = []
        for record in (header, header.with_suffix("")):
            ended = cardiofed("predict", run, record, "--figure", tmp_path / "print.png")
            assert ended.code == 0, ended.err
            told.append(ended.out)
        assert told[0] == told[1]
        assert len(told[0].splitlines()) == 6
        assert (tmp_path / "print.png").stat().st_size > 20_000
