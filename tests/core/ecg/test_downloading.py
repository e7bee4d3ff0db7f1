import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from wfdb.io import download

from core.ecg.downloading import download_ptbxl
from core.ecg.importing import import_source
from core.errors import DataError


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, notes what was asked for, and hangs up in the middle of some files."""

    def __init__(self, *arguments, asked, breaking, **keywords):
        self.asked = asked
        self.breaking = breaking
        super().__init__(*arguments, **keywords)

    def do_GET(self):
        name = self.path.removeprefix("/files/ptb-xl/1.0.3/")
        self.asked.append(name)
        if name not in self.breaking:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "24000")
        self.end_headers()
        self.wfile.write(b"\0" * 5000)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


class Mirror:
    """A PhysioNet-like server on the loopback interface."""

    def __init__(self, root: Path) -> None:
        self.asked: list[str] = []
        self.breaking: set[str] = set()
        self.database = root / "files" / "ptb-xl" / "1.0.3"
        self.database.mkdir(parents=True)
        handler = partial(Handler, directory=str(root), asked=self.asked, breaking=self.breaking)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/files/"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def publish(self, folder: Path, records: int | None = None, checksums: bool = True) -> None:
        """Link a PTB-XL folder in, with the RECORDS file that PhysioNet has."""
        for path in folder.iterdir():
            if path.name != "SHA256SUMS.txt":
                (self.database / path.name).symlink_to(path)
        names = []
        for rate in (100, 500):
            found = sorted((folder / f"records{rate}").rglob("*.hea"))[:records]
            names += [path.relative_to(folder).with_suffix("").as_posix() for path in found]
        (self.database / "RECORDS").write_text("\n".join(names) + "\n")
        if checksums:
            files = ["ptbxl_database.csv", "scp_statements.csv"]
            files += [name + suffix for name in names for suffix in (".hea", ".dat")]
            lines = [f"{hashlib.sha256((folder / f).read_bytes()).hexdigest()} {f}" for f in files]
            (self.database / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path / "server")
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


TABLES = {"ptbxl_database.csv", "scp_statements.csv"}


@pytest.mark.parametrize(("rate", "short"), [(100, "lr"), (500, "hr")])
def test_records_of_one_rate_come_with_the_tables_and_can_be_imported(mirror, make_ptbxl, tmp_path, rate, short):
    source = make_ptbxl(count=3)
    mirror.publish(source)
    seen = []
    report = download_ptbxl(
        tmp_path / "got", rate=rate, mirror=mirror.url, progress=lambda *counts: seen.append(counts)
    )
    stems = [f"records{rate}/00000/{n:05d}_{short}" for n in (1, 2, 3)]
    wanted = TABLES | {stem + suffix for stem in stems for suffix in (".hea", ".dat")}
    assert names_below(tmp_path / "got") == wanted | {"SHA256SUMS.txt"}
    assert all((tmp_path / "got" / name).read_bytes() == (source / name).read_bytes() for name in wanted)
    assert (report.fetched, report.complete) == (8, 0)
    assert seen == [(n, 8) for n in range(9)]
    direct = import_source("ptbxl", source, tmp_path / "direct", rate=rate)
    fetched = import_source("ptbxl", tmp_path / "got", tmp_path / "fetched", rate=rate)
    assert direct.info.fingerprint == fetched.info.fingerprint


def test_a_second_download_asks_for_what_is_missing_or_damaged_only(mirror, make_ptbxl, tmp_path):
    source = make_ptbxl(count=3)
    mirror.publish(source)
    got = tmp_path / "got"
    download_ptbxl(got, mirror=mirror.url)
    place = got / "records100" / "00000"
    (place / "00001_lr.dat").unlink()
    (place / "00002_lr.dat").write_bytes((place / "00002_lr.dat").read_bytes()[:777])
    flipped = bytearray((place / "00003_lr.dat").read_bytes())
    flipped[100] ^= 1
    (place / "00003_lr.dat").write_bytes(flipped)
    mirror.asked.clear()
    report = download_ptbxl(got, mirror=mirror.url)
    assert (report.fetched, report.complete) == (3, 5)
    assert {name for name in mirror.asked if name.endswith((".dat", ".hea", ".csv"))} == {
        f"records100/00000/0000{n}_lr.dat" for n in (1, 2, 3)
    }
    for n in (1, 2, 3):
        name = f"records100/00000/0000{n}_lr.dat"
        assert (got / name).read_bytes() == (source / name).read_bytes()


def test_without_checksums_files_that_are_there_are_complete(mirror, make_ptbxl, tmp_path):
    mirror.publish(make_ptbxl(count=2), checksums=False)
    download_ptbxl(tmp_path / "got", mirror=mirror.url)
    (tmp_path / "got" / "records100" / "00000" / "00001_lr.dat").unlink()
    mirror.asked.clear()
    report = download_ptbxl(tmp_path / "got", mirror=mirror.url)
    assert (report.fetched, report.complete) == (1, 5)
    assert [name for name in mirror.asked if name.endswith((".dat", ".hea", ".csv"))] == [
        "records100/00000/00001_lr.dat"
    ]


@pytest.mark.parametrize("checksums", [True, False])
def test_a_transfer_that_breaks_off_leaves_no_part_and_is_repeated(mirror, make_ptbxl, tmp_path, checksums):
    source = make_ptbxl(count=3)
    mirror.publish(source, checksums=checksums)
    name = "records100/00000/00002_lr.dat"
    mirror.breaking.add(name)
    with pytest.raises(DataError, match=r"00002_lr\.dat cannot be reached"):
        download_ptbxl(tmp_path / "got", mirror=mirror.url)
    assert name not in names_below(tmp_path / "got")
    assert not any(path.endswith(".partial") for path in names_below(tmp_path / "got"))
    mirror.breaking.clear()
    download_ptbxl(tmp_path / "got", mirror=mirror.url)
    assert (tmp_path / "got" / name).read_bytes() == (source / name).read_bytes()


def test_a_file_that_disagrees_with_its_checksum_is_refused_and_removed(mirror, make_ptbxl, tmp_path):
    source = make_ptbxl(count=2)
    mirror.publish(source)
    (source / "records100" / "00000" / "00002_lr.dat").write_bytes(b"\0" * 24000)
    with pytest.raises(DataError, match=r"00002_lr\.dat does not agree with SHA256SUMS"):
        download_ptbxl(tmp_path / "got", mirror=mirror.url)
    assert not (tmp_path / "got" / "records100" / "00000" / "00002_lr.dat").exists()


def test_a_file_that_the_mirror_lacks_is_named(mirror, make_ptbxl, tmp_path):
    source = make_ptbxl(count=2)
    mirror.publish(source)
    (source / "records100" / "00000" / "00002_lr.dat").unlink()
    with pytest.raises(DataError, match=r"00002_lr\.dat does not exist"):
        download_ptbxl(tmp_path / "got", mirror=mirror.url)


def test_a_mirror_without_ptbxl_is_refused_and_no_folder_made(mirror, tmp_path):
    with pytest.raises(DataError, match=r"ptb-xl/1\.0\.3/RECORDS cannot be used"):
        download_ptbxl(tmp_path / "got", mirror=mirror.url)
    assert not (tmp_path / "got").exists()


def test_a_mirror_without_the_rate_is_refused(mirror, make_ptbxl, tmp_path):
    mirror.publish(make_ptbxl(count=2))
    (mirror.database / "RECORDS").write_text("records100/00000/00001_lr\n")
    with pytest.raises(DataError, match="lists no record at 500 Hz"):
        download_ptbxl(tmp_path / "got", rate=500, mirror=mirror.url)
    with pytest.raises(DataError, match="no records at 250 Hz"):
        download_ptbxl(tmp_path / "got", rate=250, mirror=mirror.url)


def test_a_server_that_does_not_answer_is_one_readable_sentence(mirror, tmp_path):
    mirror.server.shutdown()
    mirror.server.server_close()
    with pytest.raises(DataError, match=r"cannot be reached \(Connection refused\); check the network") as caught:
        download_ptbxl(tmp_path / "got", mirror=mirror.url)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "got").exists()


def test_the_mirror_is_forgotten_afterwards(mirror, make_ptbxl, tmp_path):
    mirror.publish(make_ptbxl(count=1))
    download_ptbxl(tmp_path / "got", mirror=mirror.url)
    assert download.config.db_index_url == download.PN_INDEX_URL


@pytest.mark.real_data
def test_a_mirror_of_real_records_downloads_and_imports(mirror, real_data, tmp_path):
    mirror.publish(real_data / "ptbxl-500", records=20)
    got = tmp_path / "got"
    download_ptbxl(got, mirror=mirror.url)
    # The tables list all 500; the mirror has the first 20 of them, so few that the import refuses to take them for all.
    with pytest.raises(DataError, match=r"more than half of the 500 records .*00021_lr\.hea is missing"):
        import_source("ptbxl", got, tmp_path / "out")
    table = got / "ptbxl_database.csv"
    first = table.read_text().splitlines(keepends=True)[:31]
    table.unlink()
    table.write_text("".join(first))
    report = import_source("ptbxl", got, tmp_path / "out")
    assert report.records == 20
    assert len(report.skipped) == 10
    shutil.rmtree(got)
