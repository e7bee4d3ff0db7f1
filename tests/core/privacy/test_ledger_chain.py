"""What is seen of a ledger that somebody, or a bad disk, changed."""

import json
import multiprocessing
import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tiny_ledgers import chained, enter, patients, reach_in, steps

from core.errors import LedgerError
from core.privacy import Ledger, ledger_chain
from core.privacy.ledger import verify


@pytest.fixture
def path(tmp_path) -> Path:
    """A ledger of 8 rows: first, cohort, reserve, settle, reserve, settle, cohort, reserve."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.create(path)
    for count in (1, 2):
        ledger.settle(enter(ledger, "ab", steps(count)), "done")
    enter(ledger, "cd", steps(3))
    kinds = ["genesis", "cohort", "reserve", "settle", "reserve", "settle", "cohort", "reserve"]
    assert [row[1] for row in rows(path)] == kinds
    return path


def rows(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.execute("SELECT seq, kind, body, previous, hash FROM events ORDER BY seq"))


def body_with(path: Path, seq: int, **changes: object) -> str:
    """The body of a row, changed, written as the ledger writes it."""
    return json.dumps(json.loads(rows(path)[seq - 1][2]) | changes, sort_keys=True, separators=(",", ":"))


def assert_refused(path: Path, what: str) -> None:
    """Neither opened nor written to, with the reason in one sentence, and the verdict says the same."""
    verdict = verify(path)
    assert not verdict.intact
    assert what in verdict.sentence
    assert "restore it and its ledger.head from the latest backup" in verdict.sentence
    assert "\n" not in verdict.sentence
    with pytest.raises(LedgerError) as refused:
        Ledger.open(path)
    assert str(refused.value) == verdict.sentence


def test_untouched_it_is_intact_and_the_hashes_are_as_documented(path):
    verdict = verify(path)
    assert verdict.intact
    assert (
        verdict.sentence
        == f"{path} is intact (rows: 8, entries: 3, cohorts: 2); its last row has the hash {verdict.head}"
    )
    previous = ""
    for seq, kind, body, before, hash_ in rows(path):
        assert before == previous
        assert hash_ == chained(seq, before, kind, body)
        previous = hash_
    assert verdict.head == previous == Ledger.open(path).head
    assert json.loads(path.with_suffix(".head").read_text()) == {"seq": 8, "hash": previous}


def test_triggers_refuse_changes_by_sql(path):
    for statement in (
        "UPDATE events SET body = '{}' WHERE seq = 3",
        "DELETE FROM events WHERE seq = 8",
        "UPDATE tokens SET rows = x'00'",
        "DELETE FROM tokens",
        "INSERT INTO events VALUES (10, 'settle', '{}', '', '')",
        "INSERT OR REPLACE INTO events VALUES (3, 'settle', '{}', '', '')",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="only ever added to"):
            reach_in(path, statement, keep_triggers=True)
    assert verify(path).intact


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE events SET body = replace(body, '\"steps\":1', '\"steps\":0') WHERE seq = 3", "row 3 was edited"),
        ("UPDATE events SET body = body || ' ' WHERE seq = 1", "row 1 was edited"),
        ("UPDATE events SET kind = 'settle' WHERE seq = 5", "row 5 was edited"),
        ("UPDATE events SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE seq = 4", "row 4 was edited"),
        ("UPDATE events SET previous = '' WHERE seq = 6", "row 6 was edited"),
        ("DELETE FROM events WHERE seq = 1", "row 1 was removed"),
        ("DELETE FROM events WHERE seq = 3", "row 3 was removed"),
        ("DELETE FROM events WHERE seq IN (4, 5)", "row 4 was removed"),
        ("DELETE FROM events WHERE seq = 8", "it ends with row 7 and ledger.head remembers row 8"),
        ("DELETE FROM events WHERE seq > 2", "it ends with row 2 and ledger.head remembers row 8"),
        ("DELETE FROM events", "it ends with row 0 and ledger.head remembers row 8"),
        ("CREATE TABLE more (x)", "its tables or triggers were changed"),
        ("PRAGMA user_version = 1", "there never was a version 1"),
        ("PRAGMA application_id = 7", "it is no ledger of cardiofed"),
    ],
)
def test_rows_edited_removed_or_cut_off_are_named(path, statement, what):
    reach_in(path, statement)
    assert_refused(path, what)


def test_triggers_taken_away_are_noticed(path):
    reach_in(path, "DROP TRIGGER events_update", keep_triggers=True)
    assert_refused(path, "its tables or triggers were changed")


def test_swapped_rows_are_named(path):
    columns = "kind, body, previous, hash"
    three, five = ([row[1:] for row in rows(path)][at] for at in (2, 4))
    reach_in(
        path,
        (f"UPDATE events SET ({columns}) = (?, ?, ?, ?) WHERE seq = 3", five),
        (f"UPDATE events SET ({columns}) = (?, ?, ?, ?) WHERE seq = 5", three),
    )
    assert_refused(path, "row 3 was edited")


def test_an_edited_row_with_a_hash_that_fits_breaks_the_next(path):
    _, kind, _, previous, _ = rows(path)[4]
    body = body_with(path, 5, steps=1)
    hash_ = chained(5, previous, kind, body)
    reach_in(path, ("UPDATE events SET body = ?, hash = ? WHERE seq = 5", (body, hash_)))
    assert_refused(path, "row 6 does not follow row 5, so one of the two was replaced")


def test_an_edited_last_row_with_a_hash_that_fits_is_not_the_one_that_the_anchor_remembers(path):
    _, kind, _, previous, _ = rows(path)[7]
    body = body_with(path, 8, steps=1)
    reach_in(path, ("UPDATE events SET body = ?, hash = ? WHERE seq = 8", (body, chained(8, previous, kind, body))))
    assert_refused(path, "row 8 is another than ledger.head remembers")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tokens SET rows = zeroblob(length(rows)) WHERE event = 2",
        "UPDATE tokens SET rows = x'' WHERE event = 2",
        "DELETE FROM tokens WHERE event = 2",
        "INSERT OR REPLACE INTO tokens VALUES (2, x'00')",
    ],
)
def test_changed_patients_are_named_and_no_history_is_read_from_them(path, statement):
    reach_in(path, statement)
    verdict = verify(path)
    assert not verdict.intact
    assert "the patients of row 2 were changed" in verdict.sentence
    ledger = Ledger.open(path)
    with pytest.raises(LedgerError, match="the patients of row 2 were changed"):
        ledger.epsilon(ledger.cohort(patients("xyz")), 1e-5)
    with pytest.raises(LedgerError, match="the patients of row 2 were changed"):
        enter(ledger, "xyz")


def test_patients_put_beside_a_row_that_is_no_cohort_are_named(path):
    reach_in(path, "INSERT INTO tokens VALUES (3, x'00')")
    assert "the patients of row 3 were changed" in verify(path).sentence


def test_an_older_copy_in_place_of_the_file_is_noticed(path, tmp_path):
    shutil.copy(path, tmp_path / "older")
    enter(Ledger.open(path), "ef")
    shutil.copy(tmp_path / "older", path)
    assert_refused(path, "it ends with row 8 and ledger.head remembers row 10")


def test_an_older_copy_together_with_its_anchor_is_noticed_by_a_hash_kept_elsewhere(path, tmp_path):
    shutil.copytree(path.parent, tmp_path / "older", ignore=shutil.ignore_patterns("older"))
    ledger = Ledger.open(path)
    earlier = ledger.head
    enter(ledger, "ef")
    later = ledger.head
    assert verify(path, expect=later).intact
    assert ledger.verify(expect=earlier).intact
    shutil.copytree(tmp_path / "older", path.parent, dirs_exist_ok=True)
    assert verify(path).intact
    assert verify(path, expect=earlier).intact
    verdict = verify(path, expect=later)
    assert not verdict.intact
    assert f"no row has the hash {later}, so it was written anew" in verdict.sentence


def test_a_ledger_that_is_open_notices_too(path, tmp_path):
    ledger = Ledger.open(path)
    shutil.copy(path, tmp_path / "whole")
    reach_in(path, "DELETE FROM events WHERE seq = 8")
    with pytest.raises(LedgerError, match="row 8 was removed"):
        enter(ledger, "ab")
    shutil.copy(tmp_path / "whole", path)
    reach_in(path, "UPDATE events SET hash = 'x' WHERE seq = 8")
    with pytest.raises(LedgerError, match="row 8 was edited"):
        ledger.entries()


def test_what_another_process_enters_during_a_verification_does_not_disturb_it(path, monkeypatch):
    real = ledger_chain.tokens

    def late(path):
        enter(Ledger.open(path), "ef")
        return real(path)

    monkeypatch.setattr(ledger_chain, "tokens", late)
    assert verify(path).intact


class TestAnchor:
    def test_without_it_rows_may_be_missing(self, path):
        path.with_suffix(".head").unlink()
        assert_refused(path, "its ledger.head is missing")

    @pytest.mark.parametrize(
        "content", [b"", b"\xff", b"[]", b"{}", b'{"seq": "8", "hash": ""}', b'{"seq": 8}', b"null"]
    )
    def test_one_that_says_nothing_is_refused(self, path, content):
        path.with_suffix(".head").write_bytes(content)
        assert_refused(path, "its ledger.head cannot be read")

    def test_one_of_another_row_is_refused(self, path):
        path.with_suffix(".head").write_text('{"seq": 6, "hash": "00"}')
        assert_refused(path, "row 6 is another than ledger.head remembers")

    @pytest.mark.parametrize("behind", [1, 2, 7])
    def test_one_that_a_kill_left_behind_is_fine_and_moves_on_with_the_next_row(self, path, behind):
        seq, *_, hash_ = rows(path)[7 - behind]
        path.with_suffix(".head").write_text(json.dumps({"seq": seq, "hash": hash_}))
        ledger = Ledger.open(path)
        assert [entry.steps for entry in ledger.entries()] == [1, 2, 3]
        ledger.settle(ledger.entries()[-1].id, "done")
        assert json.loads(path.with_suffix(".head").read_text())["seq"] == 9

    def test_the_anchor_never_moves_back(self, path, monkeypatch):
        """Two commit, and the one that committed first gets to its anchor last."""
        ledger, other = Ledger.open(path), Ledger.open(path)
        real = ledger_chain._move_anchor

        def slowly(*arguments):
            monkeypatch.setattr(ledger_chain, "_move_anchor", real)
            enter(other, "ef")
            real(*arguments)

        monkeypatch.setattr(ledger_chain, "_move_anchor", slowly)
        enter(ledger, "ab")
        assert json.loads(path.with_suffix(".head").read_text())["seq"] == len(rows(path)) == 11


def test_damage_that_hides_until_the_next_row_is_written_is_refused(path):
    """The page of the rows among the free ones: all reads well, and the next page that is wanted is that one."""
    content = bytearray(path.read_bytes())
    content[32:40] = (2).to_bytes(4, "big") + (1).to_bytes(4, "big")  # first free page, and how many there are
    path.write_bytes(content)
    assert_refused(path, "SQLite finds")


@pytest.mark.parametrize("seed", range(8))
def test_bytes_overwritten_at_random_are_refused_or_change_nothing(path, tmp_path, seed):
    random_ = random.Random(seed)
    whole = tmp_path / "whole"
    enter(Ledger.open(path), "abcdefghijklmnopqrstuvwxyz" * 3, steps(4))  # tokens on pages of their own
    shutil.copytree(path.parent, whole, ignore=shutil.ignore_patterns("whole"))
    ledger = Ledger.open(path)
    entries, cohort = ledger.entries(), ledger.cohort(patients("abz"))
    spent = ledger.epsilon(cohort, 1e-5)
    size = path.stat().st_size
    refused = 0
    for _ in range(40):
        shutil.copytree(whole, path.parent, dirs_exist_ok=True)
        content = bytearray(path.read_bytes())
        for _ in range(random_.choice([1, 1, 4, 64])):
            # A third of the time where SQLite keeps its own books.
            content[random_.randrange(random_.choice([100, 1000, size]))] = random_.randrange(256)
        if random_.random() < 0.1:
            del content[random_.randrange(size) :]
        path.write_bytes(content)
        try:
            damaged = Ledger.open(path)
            assert damaged.entries() == entries
            assert damaged.epsilon(damaged.cohort(patients("abz")), 1e-5) == spent
            enter(damaged, "ab", steps(5))
            assert verify(path).intact
            assert Ledger.open(path).entries()[:-1] == entries
        except LedgerError:
            refused += 1
    assert refused > 5


@pytest.mark.parametrize("seed", range(4))
def test_an_anchor_overwritten_at_random_is_refused_or_says_the_same(path, seed):
    random_ = random.Random(seed)
    anchor = path.with_suffix(".head")
    whole = anchor.read_bytes()
    for _ in range(25):
        content = bytearray(whole)
        content[random_.randrange(len(content))] = random_.randrange(256)
        anchor.write_bytes(content)
        try:
            assert len(Ledger.open(path).entries()) == 3
        except LedgerError:
            continue
        assert json.loads(content)["hash"] == json.loads(whole)["hash"]


class TestVersions:
    def test_a_newer_one_is_refused_with_the_mend(self, path):
        reach_in(path, "PRAGMA user_version = 3")
        sentence = (
            "is of version 3 and this release knows up to 2; install the newer release of cardiofed that wrote it"
        )
        for attempt in (Ledger.open, Ledger.open_or_create, verify):
            with pytest.raises(LedgerError, match=sentence):
                attempt(path)

    def test_an_older_one_is_raised_step_by_step_and_keeps_every_row(self, path, monkeypatch):
        before = rows(path)
        trigger = "CREATE TRIGGER tokens_more BEFORE INSERT ON tokens BEGIN SELECT 1; END"
        monkeypatch.setattr(ledger_chain, "VERSION", 4)
        monkeypatch.setattr(ledger_chain, "SCHEMA", {**ledger_chain.SCHEMA, "tokens_more": trigger})
        steps_taken = {2: lambda db: None, 3: lambda db: db.execute(trigger)}
        monkeypatch.setattr(ledger_chain, "MIGRATIONS", steps_taken)
        assert len(Ledger.open(path).entries()) == 3
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (4,)
        assert rows(path) == before
        assert verify(path).intact

    def test_several_processes_raise_it_once(self, path, monkeypatch):
        trigger = "CREATE TRIGGER tokens_more BEFORE INSERT ON tokens BEGIN SELECT 1; END"

        def step(db) -> None:
            db.execute(trigger)  # a second time it would be there
            time.sleep(0.2)

        monkeypatch.setattr(ledger_chain, "VERSION", 3)
        monkeypatch.setattr(ledger_chain, "SCHEMA", {**ledger_chain.SCHEMA, "tokens_more": trigger})
        monkeypatch.setattr(ledger_chain, "MIGRATIONS", {2: step})
        fork = multiprocessing.get_context("fork")
        barrier = fork.Barrier(3)

        def work() -> None:
            barrier.wait(60)
            assert len(Ledger.open(path).entries()) == 3

        children = [fork.Process(target=work) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * 3

    def test_a_step_that_fails_changes_nothing(self, path, monkeypatch):
        monkeypatch.setattr(ledger_chain, "VERSION", 3)
        monkeypatch.setattr(
            ledger_chain, "MIGRATIONS", {2: lambda db: db.execute("CREATE TABLE half (x)").execute("?")}
        )
        with pytest.raises(LedgerError):
            Ledger.open(path)
        monkeypatch.undo()
        assert len(Ledger.open(path).entries()) == 3


def test_rows_that_are_chained_but_make_no_sense_are_refused(path):
    """Somebody who computes hashes and the anchor, and writes what no release writes."""
    for kind, body in (
        ("reserve", body_with(path, 3, id="new", steps=0)),
        ("reserve", body_with(path, 3, id="new", steps="7")),
        ("reserve", body_with(path, 3, id="new", void=0)),
        ("reserve", body_with(path, 3, id="new", more=1)),
        ("reserve", body_with(path, 3, id="new", fingerprint="nobody's")),
        ("reserve", rows(path)[2][2]),
        ("settle", rows(path)[3][2]),
        ("settle", body_with(path, 4, id=json.loads(rows(path)[7][2])["id"], status="refunded")),
        ("refund", body_with(path, 4, id=json.loads(rows(path)[7][2])["id"])),
        ("genesis", rows(path)[0][2]),
        ("settle", "[]"),
        ("settle", "{oops"),
    ):
        seq, *_, previous = rows(path)[-1]
        values = (seq + 1, kind, body, previous, chained(seq + 1, previous, kind, body))
        reach_in(path, ("INSERT INTO events VALUES (?, ?, ?, ?, ?)", values))
        assert_refused(path, "row 9 is none that a ledger holds")
        if body in ("[]", "{oops"):
            with pytest.raises(LedgerError, match="row 9"):
                ledger_chain.read(path)
        reach_in(path, "DELETE FROM events WHERE seq = 9")
    assert verify(path).intact
