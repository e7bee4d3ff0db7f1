"""The audit log: chained as documented, whole after a crash, and telling of every hand that was in it."""

import errno
import hashlib
import json
import multiprocessing
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients import audit_log
from clients.audit_log import AuditLog, AuditLogError, read, verify


@pytest.fixture
def path(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(5):
        log.append(kind="train.finetune", campaign="one", round=number, verdict="done", released=["loss"], seconds=0.5)
    return log.path


def broken(path) -> str:
    with pytest.raises(AuditLogError) as caught:
        verify(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def append_many(path, who: str) -> None:
    for number in range(40):
        AuditLog(path).append(kind=who, round=number)


class TestChain:
    def test_each_line_holds_the_hash_of_the_one_before_as_documented(self, path):
        previous = "0" * 64
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            entry = json.loads(line)
            stored = entry.pop("hash")
            assert stored == hashlib.sha256(json.dumps(entry).encode()).hexdigest()
            assert (entry["seq"], entry["previous"]) == (number, previous)
            previous = stored
        assert number == verify(path) == 5
        assert audit_log.last_hash(path) == previous
        assert (path.parent / "audit.head").read_text() == f"5 {previous}\n"

    def test_only_the_owner_reads_it(self, path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert (path.parent / "audit.head").stat().st_mode & 0o777 == 0o600

    def test_what_was_written_is_read_with_the_time_and_without_the_chain(self, path):
        first = read(path)[0]
        assert first.pop("time").endswith("+00:00")
        assert first == {
            "kind": "train.finetune", "campaign": "one", "round": 0, "verdict": "done", "released": ["loss"], "seconds": 0.5,
        }  # fmt: skip

    def test_a_log_that_was_never_begun_has_no_lines(self, tmp_path):
        assert read(tmp_path / "audit.jsonl") == []
        assert verify(tmp_path / "audit.jsonl") == 0
        assert list(tmp_path.iterdir()) == []

    def test_two_processes_write_into_one_chain(self, path):
        context = multiprocessing.get_context("spawn")
        writers = [context.Process(target=append_many, args=(path, who)) for who in "abc"]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert verify(path) == 5 + 3 * 40
        rounds = [entry["round"] for entry in read(path) if entry["kind"] == "b"]
        assert rounds == list(range(40))


class TestHands:
    def test_an_edited_line_is_named(self, path):
        lines = path.read_text().splitlines(keepends=True)
        lines[2] = lines[2].replace('"done"', '"busy"')
        path.write_text("".join(lines))
        assert "line 3 was edited" in broken(path)

    def test_a_line_that_was_edited_with_its_hash_does_not_fit_the_next(self, path):
        lines = path.read_text().splitlines()
        entry = json.loads(lines[2])
        del entry["hash"]
        entry["verdict"] = "busy"
        lines[2] = json.dumps({**entry, "hash": hashlib.sha256(json.dumps(entry).encode()).hexdigest()})
        path.write_text("\n".join(lines) + "\n")
        assert "before line 4" in broken(path)

    def test_so_does_the_last_one_not_fit_the_head(self, path):
        lines = path.read_text().splitlines()
        entry = json.loads(lines[4])
        del entry["hash"]
        entry["verdict"] = "busy"
        lines[4] = json.dumps({**entry, "hash": hashlib.sha256(json.dumps(entry).encode()).hexdigest()})
        path.write_text("\n".join(lines) + "\n")
        assert "line 5 is not the one" in broken(path)
        with pytest.raises(AuditLogError, match="not what was written"):
            AuditLog(path).append(kind="x")

    @pytest.mark.parametrize("gone", range(4))
    def test_a_removed_line_is_missed(self, path, gone):
        lines = path.read_text().splitlines(keepends=True)
        del lines[gone]
        path.write_text("".join(lines))
        assert f"removed or put in before line {gone + 1}" in broken(path)

    @pytest.mark.parametrize("left", range(5))
    def test_lines_that_were_cut_off_are_missed_and_nothing_is_written_after_them(self, path, left):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:left]))
        assert f"cut off after line {left}" in broken(path)
        before = path.read_bytes()
        with pytest.raises(AuditLogError, match="restore it from its backup"):
            AuditLog(path).append(kind="x")
        assert path.read_bytes() == before

    def test_a_log_that_is_gone_is_not_begun_anew(self, path):
        path.unlink()
        assert "cut off after line 0" in broken(path)
        with pytest.raises(AuditLogError, match="not what was written"):
            AuditLog(path).append(kind="x")

    def test_a_damaged_head_is_named(self, path):
        (path.parent / "audit.head").write_text("five")
        with pytest.raises(AuditLogError, match=r"audit\.head is damaged"):
            verify(path)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_no_byte_can_be_changed_unseen(self, path, data):
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        other = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))
        path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
        broken(path)
        path.write_bytes(whole)
        assert verify(path) == 5

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(content=st.binary(max_size=300))
    def test_bytes_that_are_no_log_are_one_sentence(self, path, content):
        path.write_bytes(content)
        broken(path)


class TestCrashes:
    @pytest.mark.parametrize("kept", [1, 40, -1])
    def test_what_a_killed_process_wrote_of_a_line_is_taken_away_and_told(self, path, kept):
        whole = path.read_bytes()
        torn = whole.splitlines(keepends=True)[-1][:kept]
        path.write_bytes(whole + torn)
        assert "line 6 was cut short" in broken(path)
        AuditLog(path).append(kind="after")
        assert verify(path) == 6
        assert read(path)[-1]["cut_bytes"] == len(torn)
        assert path.read_bytes().startswith(whole)

    def test_a_whole_line_whose_head_was_not_written_any_more_counts(self, path):
        head = (path.parent / "audit.head").read_text()
        AuditLog(path).append(kind="sixth")
        (path.parent / "audit.head").write_text(head)
        assert verify(path) == 6
        AuditLog(path).append(kind="seventh")
        assert [entry["kind"] for entry in read(path)][-2:] == ["sixth", "seventh"]

    def test_a_full_disk_leaves_the_log_as_it_was(self, path, monkeypatch):
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(audit_log.os, "fsync", full)
        with pytest.raises(AuditLogError, match="No space left"):
            AuditLog(path).append(kind="x")
        monkeypatch.undo()
        assert path.read_bytes() == before
        AuditLog(path).append(kind="y")
        assert verify(path) == 6

    def test_a_place_that_cannot_be_written_is_one_sentence(self, tmp_path):
        with pytest.raises(AuditLogError, match="cannot be written"):
            AuditLog(tmp_path / "no" / "audit.jsonl").append(kind="x")


class TestFields:
    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        fields=st.dictionaries(
            st.text(min_size=1, max_size=10).filter(lambda name: name not in ("seq", "previous", "hash", "self")),
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
                st.text(max_size=80), st.lists(st.text(max_size=20), max_size=3),
            ),
            max_size=5,
        )
    )  # fmt: skip
    def test_plain_values_come_back_as_they_were(self, path, fields):
        count = verify(path)
        AuditLog(path).append(**fields)
        assert verify(path) == count + 1
        last = read(path)[-1]
        assert {name: last[name] for name in fields} == fields

    def test_a_long_text_is_cut(self, path):
        AuditLog(path).append(campaign="x" * 5000)
        assert read(path)[-1]["campaign"] == "x" * 300 + "..."

    @pytest.mark.parametrize("value", [b"bytes", {"a": 1}, [1.0], object(), 1j])
    def test_what_is_no_plain_value_is_refused_and_nothing_written(self, path, value):
        with pytest.raises(TypeError):
            AuditLog(path).append(field=value)
        assert verify(path) == 5

    @pytest.mark.parametrize("fields", [{"hash": "x"}, {"seq": 3}, {"seconds": float("nan")}, {"x": float("inf")}])
    def test_names_of_the_chain_and_numbers_that_are_none_are_refused(self, path, fields):
        with pytest.raises(ValueError, match=r"log's own|JSON"):
            AuditLog(path).append(**fields)
        assert verify(path) == 5

    def test_a_last_line_longer_than_a_block_is_found(self, path, monkeypatch):
        monkeypatch.setattr(audit_log, "_BLOCK", 16)
        AuditLog(path).append(kind="x" * 200)
        AuditLog(path).append(kind="y")
        assert verify(path) == 7


def test_it_is_on_the_disk_before_it_returns(path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        audit_log.os,
        "fsync",
        lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")) or real(descriptor),
    )
    AuditLog(path).append(kind="x")
    assert synced[0] == str(path)
    assert str(path.parent) in synced
