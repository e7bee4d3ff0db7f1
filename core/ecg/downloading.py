"""Fetch PTB-XL through wfdb's own downloader, from PhysioNet or from a mirror laid out like it."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.ecg.sources.ptbxl import DATABASE_FILE, FILENAME_COLUMNS, STATEMENTS_FILE
from core.errors import DataError

PTBXL_DATABASE = "ptb-xl/1.0.3"

_CHECKSUMS_FILE = "SHA256SUMS.txt"
# wfdb's own limit, out of courtesy to the server.
_CONNECTIONS = 2


@dataclass(frozen=True)
class DownloadReport:
    """What a download did: where, how many files were fetched, and how many were complete already."""

    path: Path
    fetched: int
    complete: int


def download_ptbxl(
    folder: str | Path,
    *,
    rate: int = 100,
    mirror: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DownloadReport:
    """Download the records of one rate with ``ptbxl_database.csv`` and ``scp_statements.csv``.

    Interrupted, the same call goes on: a file whose checksum agrees with the server's ``SHA256SUMS.txt`` is
    not asked for again; where the server has no such list, a file that is there is taken to be complete.

    Parameters
    ----------
    folder
        Folder to fill; made where it is missing.
    rate
        100 or 500.
    mirror
        Address that holds ``ptb-xl/1.0.3/``; None is PhysioNet.
    progress
        Called as ``progress(done, total)`` after each file.

    Raises
    ------
    DataError
        The server cannot be reached, lacks a file, or sent one whose checksum disagrees.
    """
    if rate not in FILENAME_COLUMNS:
        raise DataError(f"PTB-XL has no records at {rate} Hz; choose 100 or 500")
    target = Path(folder)
    with _index_url(mirror), _made(target):
        checksums = _fetch_checksums(target)
        files = [DATABASE_FILE, STATEMENTS_FILE, *_record_files(rate)]
        missing = [name for name in files if not _complete(target / name, checksums.get(name))]
        complete = len(files) - len(missing)
        if progress:
            progress(complete, len(files))
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            fetched = pool.map(lambda name: _fetch(name, target, checksums.get(name)), missing)
            try:
                for done, _ in enumerate(fetched, start=complete + 1):
                    if progress:
                        progress(done, len(files))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return DownloadReport(target, len(missing), complete)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder, and take it away again if nothing came to lie in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}); choose another folder") from None
    try:
        yield
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def _index_url(mirror: str | None) -> Iterator[None]:
    """Point wfdb at the mirror, and back."""
    from wfdb.io import download

    before = download.config.db_index_url
    download.set_db_index_url(mirror or download.PN_INDEX_URL)
    try:
        yield
    finally:
        download.set_db_index_url(before)


def _record_files(rate: int) -> list[str]:
    from wfdb.io import download

    with _readable_errors("RECORDS"):
        records = download.get_record_list(PTBXL_DATABASE)
    chosen = [record for record in records if record.startswith(f"records{rate}/")]
    if not chosen:
        raise DataError(f"{_address('RECORDS')} lists no record at {rate} Hz; choose another mirror")
    return [record + suffix for record in chosen for suffix in (".hea", ".dat")]


def _fetch_checksums(folder: Path) -> dict[str, str]:
    """File -> sha256, or nothing where the server has no such list."""
    try:
        _fetch(_CHECKSUMS_FILE, folder, None)
    except _AbsentError:
        return {}
    lines = (folder / _CHECKSUMS_FILE).read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {name.strip(): checksum for checksum, name in pairs}


def _fetch(name: str, folder: Path, checksum: str | None) -> None:
    from wfdb.io import download

    local = folder / name
    local.parent.mkdir(parents=True, exist_ok=True)
    # Not dl_pn_file, which completes a part that is there: where a server ignores byte ranges, wfdb 4.3.1
    # appends the whole file to it. A name is given to whole files only, so that one on disk is complete.
    arriving = local.with_name(local.name + ".partial")
    try:
        with _readable_errors(name):
            download.dl_full_file(_address(name), str(arriving))
        if checksum is not None and not _agrees(arriving, checksum):
            raise DataError(f"{_address(name)} does not agree with {_CHECKSUMS_FILE}; try again or another mirror")
        arriving.replace(local)
    finally:
        arriving.unlink(missing_ok=True)


def _complete(path: Path, checksum: str | None) -> bool:
    return path.is_file() and (checksum is None or _agrees(path, checksum))


def _agrees(path: Path, checksum: str) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == checksum


def _address(name: str) -> str:
    from wfdb.io import download

    return posixpath.join(download.config.db_index_url, PTBXL_DATABASE, name)


class _AbsentError(DataError):
    """The server has no such file."""


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    import requests

    try:
        yield
    except FileNotFoundError as error:
        raise _AbsentError(f"{_address(name)} does not exist ({error}); check the mirror's address") from None
    except ValueError as error:
        raise DataError(f"{_address(name)} cannot be used ({error}); check the mirror's address") from None
    except (OSError, requests.RequestException) as error:
        raise DataError(
            f"{_address(name)} cannot be reached ({_root_cause(error)}); check the network or --mirror and "
            "run the same command again, which goes on where it stopped"
        ) from None


def _root_cause(error: BaseException) -> str:
    """What the system said at the bottom of the chain, rather than what three libraries made of it."""
    deepest, cause = error, error.__cause__ or error.__context__
    while cause is not None:
        deepest, cause = cause, cause.__cause__ or cause.__context__
    return getattr(deepest, "strerror", None) or str(deepest) or type(deepest).__name__
