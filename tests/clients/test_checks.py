"""The preflight: each thing that would go wrong later is a line with its mend now."""

import contextlib
import json
import socket
import ssl
import threading
from dataclasses import replace
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_certificates import DAY, made_authority, made_certificate
from tiny_ledgers import enter, reach_in

from clients import checks, coordinator_checks
from clients.audit_log import AuditLog
from clients.checks import Check, preflight
from clients.coordinator_checks import judged_clock
from clients.joining import Answers, join
from core.ecg.dataset import EcgDataset
from core.privacy.ledger import Ledger
from core.synthetic.hospitals import simulated_hospitals

PATIENTS = 60


@pytest.fixture(scope="module")
def records() -> EcgDataset:
    return simulated_hospitals(hospitals=1, patients=PATIENTS, seed=0)


@pytest.fixture
def state(tmp_path, records) -> Path:
    records.write(tmp_path / "set")
    join(tmp_path / "state", Answers("a", str(tmp_path / "set"), device="cpu"))
    edit(tmp_path / "state", "min_patients = 50", "min_patients = 40")
    return tmp_path / "state"


def edit(state: Path, old: str, new: str) -> None:
    text = (state / "site.toml").read_text()
    assert old in text
    (state / "site.toml").write_text(text.replace(old, new))


def looked_at(state: Path) -> list[Check]:
    return list(preflight(state, state / "vault.sock"))


def failed(state: Path) -> list[Check]:
    found = [check for check in looked_at(state) if check.level == "FAIL"]
    assert all(check.mend for check in found), found
    return found


def named(state: Path, name: str) -> Check:
    """The worst finding of one name."""
    return max(
        (check for check in looked_at(state) if check.name == name),
        key=lambda each: ("ok", "warn", "FAIL").index(each.level),
    )


def rewritten(state: Path, records: EcgDataset, signals=None, **columns) -> None:
    """Put a changed set in place of the site's."""
    table = records.records.copy()
    for name, values in columns.items():
        table[name] = values
    changed = EcgDataset(records.signals if signals is None else signals, table, records.info)
    changed.write(state.parent / "set", overwrite=True)


class TestState:
    def test_a_new_site_has_nothing_to_mend(self, state):
        assert failed(state) == []
        names = [check.name for check in looked_at(state)]
        assert len(names) >= 15
        assert {"ledger", "key pair", "disk", "device", "Flower", "patients", "units", "duplicates"} <= set(names)

    def test_a_damaged_site_toml_ends_it_with_one_line(self, state):
        (state / "site.toml").write_text("[site]\nname = 3\n")
        (only,) = looked_at(state)
        assert (only.level, only.name) == ("FAIL", "site.toml")
        assert "site.name" in only.said
        assert (
            looked_at(state.parent / "nowhere")[0].mend
            == f"make it with: cardiofed-site init {state.parent / 'nowhere'}"
        )

    @pytest.mark.parametrize("name", [".", "node.key", "ledger.sqlite"])
    def test_what_others_may_read_is_a_fault(self, state, name):
        (state / name).chmod(0o755 if name == "." else 0o644)
        (only,) = failed(state)
        assert only.name == "state folder"
        assert only.mend.startswith("chmod 0")

    def test_keys_that_do_not_fit_or_are_none(self, state):
        join(state.parent / "other", Answers("b"))
        (state / "node.pub").write_bytes((state.parent / "other" / "node.pub").read_bytes())
        assert [(check.name, "another key" in check.said) for check in failed(state)] == [("key pair", True)]
        (state / "node.key").write_text("no key")
        assert [check.name for check in failed(state)] == ["key pair"]
        (state / "node.key").unlink()
        assert "is missing" in named(state, "key pair").said

    def test_a_damaged_ledger(self, state):
        enter(Ledger.open(state / "ledger.sqlite"), "ab")
        assert named(state, "ledger").level == "ok"
        reach_in(state / "ledger.sqlite", "DELETE FROM events WHERE seq = 3")
        (only,) = failed(state)
        assert (only.name, only.mend.startswith("restore it")) == ("ledger", True)

    def test_a_damaged_audit_log(self, state):
        AuditLog(state / "audit.jsonl").append(kind="x")
        assert named(state, "audit log").said == "intact, 1 lines"
        (state / "audit.jsonl").write_text("{}\n")
        (only,) = failed(state)
        assert (only.name, "line 1 was edited" in only.said) == ("audit log", True)

    @pytest.mark.parametrize(("free", "level"), [(10 * 2**30, "ok"), (2**30, "warn"), (2**20, "FAIL")])
    def test_a_full_disk(self, state, monkeypatch, free, level):
        usage = checks.shutil.disk_usage(state)
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage._replace(free=free))
        assert named(state, "disk").level == level

    def test_another_flower(self, state, monkeypatch):
        version = checks.metadata.version
        monkeypatch.setattr(checks.metadata, "version", lambda name: "1.42.0" if name == "flwr" else version(name))
        (only,) = failed(state)
        assert (only.name, "1.42.0" in only.said, "<1.42" in only.mend) == ("Flower", True, True)

    def test_a_gpu_that_is_not_there(self, state):
        edit(state, 'device = "cpu"', 'device = "cuda:63"')
        (only,) = failed(state)
        assert only.name == "device"

    def test_a_unit_that_is_older_than_site_toml(self, state):
        assert "systemd unit" not in [check.name for check in looked_at(state)]
        edit(state, 'name = "a"', 'name = "b"')
        assert named(state, "systemd unit").level == "warn"

    def test_a_socket_that_nobody_answers_at(self, state):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
            dead.bind(str(state / "vault.sock"))
        assert named(state, "vault").level == "warn"


class TestRecords:
    def test_none_or_no_set(self, state):
        text = (state / "site.toml").read_text()
        edit(state, str(state.parent / "set"), str(state.parent / "nowhere"))
        assert [check.name for check in failed(state)] == ["records"]
        (state / "site.toml").write_text(text.replace(f'"{state.parent / "set"}"', '""'))
        (only,) = failed(state)
        assert "data.path" in only.mend

    def test_signals_that_were_cut_short(self, state):
        signals = state.parent / "set" / "signals.npy"
        signals.write_bytes(signals.read_bytes()[:-1000])
        assert [check.name for check in failed(state)] == ["records"]

    def test_too_few_patients(self, state):
        edit(state, "min_patients = 40", "min_patients = 61")
        (only,) = failed(state)
        assert (only.name, "site.toml asks for 61" in only.said) == ("patients", True)

    def test_delta_that_is_not_below_one_over_the_patients(self, state):
        edit(state, "delta = 1e-05", "delta = 0.1")
        (only,) = failed(state)
        assert only.name == "patients"
        edit(state, 'large_delta = "refuse"', 'large_delta = "warn"')
        assert failed(state) == []

    def test_a_patient_on_both_sides(self, state, records):
        patients = records.records["patient"].to_numpy().copy()
        folds = records.records["fold"].to_numpy()
        patients[np.flatnonzero(folds <= 8)[0]] = patients[np.flatnonzero(folds > 8)[0]]
        rewritten(state, records, patient=patients)
        (only,) = failed(state)
        assert only.said.startswith("1 have records to train and to test on")

    def test_folds_without_labels(self, state, records):
        edit(state, "test_folds = [9, 10]", "test_folds = [9]")
        rewritten(state, records, fold=np.where(records.records["fold"] == 9, 10, records.records["fold"]))
        (only,) = failed(state)
        assert (only.name, "data.test_folds" in only.mend) == ("labels to test on", True)

    def test_a_class_that_nobody_has_is_told_with_all_counts(self, state, records):
        rewritten(state, records, HYP=0)
        found = named(state, "labels to train on")
        folds = records.records["fold"].to_numpy()
        labelled = records.records[["NORM", "MI", "STTC", "CD"]].any(axis=1).to_numpy()
        normal = int(records.records["NORM"][(folds <= 8) & labelled].sum())
        assert found.level == "warn"
        assert found.said.startswith(f"NORM {normal}, MI ")
        assert "HYP" in found.mend

    @pytest.mark.parametrize(("factor", "unit"), [(0.01, "in V"), (8.0, "uV")])
    def test_another_unit(self, state, records, factor, unit):
        scaled = np.clip(records.signals.astype(float) * factor, -32000, 32000).astype(np.int16)
        rewritten(state, records, scaled)
        (only,) = failed(state)
        assert only.name == "units"
        assert unit in only.mend

    def test_samples_at_the_end_of_what_can_be_stored(self, state, records):
        rewritten(state, records, np.clip(records.signals.astype(float) * 1000, -32768, 32767).astype(np.int16))
        assert [(check.name, "32.8 mV" in check.said) for check in failed(state)] == [("units", True)]

    def test_the_amplitude_is_the_median_of_the_largest_span(self, state, records):
        spans = [float((row.max(axis=1) - row.min(axis=1)).max()) / 1000 for row in records.signals.astype(np.int64)]
        assert named(state, "units").said == f"median amplitude {sorted_median(spans):.3g} mV, peak to peak"

    def test_equal_signals_under_two_patients_are_a_fault_and_of_one_a_warning(self, state, records):
        patients = records.records["patient"].to_numpy()
        other = int(np.flatnonzero(patients != patients[0])[0])
        signals = records.signals.copy()
        signals[other] = signals[0]
        rewritten(state, records, signals)
        (only,) = failed(state)
        assert only.name == "duplicates"
        assert str(patients[0]) in only.said
        changed = patients.copy()
        changed[other] = patients[0]
        folds = records.records["fold"].to_numpy().copy()
        folds[other] = folds[0]
        rewritten(state, records, signals, patient=changed, fold=folds)
        assert named(state, "duplicates").level == "warn"

    def test_flat_records_are_told_and_are_no_duplicates(self, state, records):
        signals = records.signals.copy()
        signals[:3] = 0
        rewritten(state, records, signals)
        assert failed(state) == []
        assert named(state, "flat records").said == "3 records flat throughout"

    def test_another_rate_is_a_warning(self, state, records):
        info = replace(records.info, rate=250)
        EcgDataset(records.signals, records.records, info).write(state.parent / "set", overwrite=True)
        assert named(state, "rate").level == "warn"

    def test_a_shared_set_that_is_none(self, state):
        edit(state, 'synthetic = ""', f'synthetic = "{state.parent / "set"}"')
        (only,) = failed(state)
        assert only.name == "synthetic set"


def sorted_median(values: list[float]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@contextlib.contextmanager
def listening(certificate: Path | None = None, key: Path | None = None, skew: float = 0.0, date: bool = True):
    """A server on loopback that answers every HTTPS request with 404 and its own idea of the time."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), connection:
                    if context is None:
                        connection.sendall(b"SSH-2.0-x\r\n")
                        continue
                    with context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(1000)
                        now = coordinator_checks.time.time() + skew
                        header = f"Date: {formatdate(now, usegmt=True)}\r\n" if date else ""
                        secure.sendall(f"HTTP/1.1 404 Not Found\r\n{header}Content-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


class TestCoordinator:
    @pytest.fixture
    def site(self, tmp_path):
        """Findings about the coordinator alone, for a CA file and a port."""

        def look(ca: Path | None, port: int, host: str = "localhost", insecure: bool = False) -> dict[str, Check]:
            from clients.site_file import load_site

            folder = tmp_path / f"state{len(list(tmp_path.iterdir()))}"
            join(folder, Answers("a", coordinator=f"{host}:{port}", certificates=ca))
            if insecure:
                edit(folder, "insecure = false", "insecure = true")
            found = list(coordinator_checks.check_coordinator(load_site(folder), folder))
            assert all(check.mend for check in found if check.level != "ok")
            return {check.name: check for check in found}

        return look

    def test_one_that_is_as_it_should_be(self, site, tmp_path):
        authority = made_authority(tmp_path)
        with listening(*made_certificate(tmp_path, authority)) as port:
            found = site(authority.path, port)
            assert {name: check.level for name, check in found.items()} == {
                "CA file": "ok",
                "coordinator": "ok",
                "clock": "ok",
            }
            assert site(authority.path, port, "127.0.0.1")["coordinator"].level == "ok"

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"ends": -timedelta(hours=1), "starts": -2 * DAY}, "has expired"),
            ({"starts": timedelta(hours=1)}, "is not valid yet"),
            ({"names": ("other.example",)}, "for another name than localhost"),
        ],
    )
    def test_a_certificate_that_is_not(self, site, tmp_path, changes, said):
        authority = made_authority(tmp_path)
        with listening(*made_certificate(tmp_path, authority, **changes)) as port:
            found = site(authority.path, port)["coordinator"]
        assert found.level == "FAIL"
        assert said in found.said

    def test_one_from_another_ca(self, site, tmp_path):
        authority, other = made_authority(tmp_path), made_authority(tmp_path, "other CA")
        with listening(*made_certificate(tmp_path, other)) as port:
            found = site(authority.path, port)["coordinator"]
        assert (found.level, "another CA than" in found.said) == ("FAIL", True)

    def test_one_of_the_same_name_but_another_key(self, site, tmp_path):
        (tmp_path / "new").mkdir()
        authority, other = made_authority(tmp_path), made_authority(tmp_path / "new")
        with listening(*made_certificate(tmp_path, other)) as port:
            assert "another CA than" in site(authority.path, port)["coordinator"].said

    def test_another_name_by_address(self, site, tmp_path):
        authority = made_authority(tmp_path)
        with listening(*made_certificate(tmp_path, authority, ("localhost",))) as port:
            assert "another name than 127.0.0.1" in site(authority.path, port, "127.0.0.1")["coordinator"].said

    def test_one_that_expires_soon_is_a_warning(self, site, tmp_path):
        authority = made_authority(tmp_path, ends=5 * DAY)
        with listening(*made_certificate(tmp_path, authority, ends=3 * DAY)) as port:
            found = site(authority.path, port)
        assert found["CA file"].said == "expires in 4 days"
        assert (found["coordinator"].level, "expires in 3 days" in found["coordinator"].said) == ("warn", True)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [({"starts": -9 * DAY, "ends": -DAY}, "expired on"), ({"starts": DAY, "ends": 9 * DAY}, "holds only from")],
    )
    def test_a_ca_file_that_does_not_hold(self, site, tmp_path, changes, said):
        found = site(made_authority(tmp_path, **changes).path, 1)
        assert list(found) == ["CA file"]
        assert (found["CA file"].level, said in found["CA file"].said) == ("FAIL", True)

    def test_a_ca_file_that_is_missing(self, site):
        found = site(None, 1)
        assert (list(found), found["CA file"].level) == (["CA file"], "FAIL")

    def test_nobody_and_somebody_else_at_the_port(self, site, tmp_path):
        authority = made_authority(tmp_path)
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = server.getsockname()[1]
        assert "nobody listens" in site(authority.path, port)["coordinator"].said
        with listening() as port:
            assert "not with TLS" in site(authority.path, port)["coordinator"].said

    def test_a_name_that_is_not_known(self, site, tmp_path):
        found = site(made_authority(tmp_path).path, 443, "nowhere.invalid")["coordinator"]
        assert "nowhere.invalid is not known" in found.said

    def test_without_tls_only_on_this_machine(self, site):
        with listening() as port:
            assert site(None, port, "127.0.0.1", insecure=True)["coordinator"].level == "warn"
        found = site(None, 443, "192.0.2.1", insecure=True)["coordinator"]
        assert (found.level, "in clear" in found.said) == ("FAIL", True)

    @pytest.mark.parametrize(
        ("skew", "level"), [(-3600, "FAIL"), (3600, "FAIL"), (-30, "FAIL"), (200, "warn"), (0, "ok")]
    )
    def test_a_clock_that_is_off(self, site, tmp_path, skew, level):
        authority = made_authority(tmp_path)
        with listening(*made_certificate(tmp_path, authority), skew=skew) as port:
            found = site(authority.path, port)
        assert found["clock"].level == level
        if level == "FAIL":
            assert ("ahead of" if skew < 0 else "behind") in found["clock"].said

    def test_a_server_that_does_not_tell_its_time(self, site, tmp_path):
        authority = made_authority(tmp_path)
        with listening(*made_certificate(tmp_path, authority), date=False) as port:
            assert "does not tell its time" in site(authority.path, port)["clock"].said

    @given(date=st.text(max_size=40), now=st.floats(0, 4e9))
    def test_a_date_that_is_none_is_no_fault(self, date, now):
        assert judged_clock(date, now).level in ("ok", "warn", "FAIL")

    @pytest.mark.parametrize("address", ["host", "host:x", ":1", "host:0", "host:70000"])
    def test_an_address_that_is_none(self, tmp_path, address):
        from clients.site_file import load_site

        join(tmp_path / "state", Answers("a", coordinator="h:1"))
        edit(tmp_path / "state", '"h:1"', json.dumps(address))
        (only,) = coordinator_checks.check_coordinator(load_site(tmp_path / "state"), tmp_path / "state")
        assert (only.level, "host:port" in only.mend) == ("FAIL", True)
