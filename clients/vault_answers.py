"""What a vault answers: it decides on each request, has it computed once, and writes down what was asked and what left.

What a coordinator sends decides nothing but which of the listed tasks is asked for: see :mod:`clients.own_site`. The order:
approval, ledger entry, work, answer kept on the disk, line in the audit log, reply. A reply that is lost is given again
from what was kept. A vault that dies between ledger entry and answer has spent that entry.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients.answer_cache import FOLDER as ANSWERS
from clients.answer_cache import AnswerCache, key_of
from clients.approval import campaign_request, decide
from clients.audit_log import FILE as AUDIT
from clients.audit_log import AuditLog
from clients.device import choose_device
from clients.own_site import (
    Records,
    coordinator_config,
    open_records,
    own_config,
    pretrains,
    require_fitting,
    require_reachable,
    stamp_of,
)
from clients.policy import Policy
from clients.private_work import LEDGER
from clients.site import Site
from clients.site_file import SiteFile, load_site
from clients.turns import Turns
from core.config import ExperimentConfig
from core.errors import DataError, FederationError, PrivacyError
from core.learning.training import use_threads
from core.messages import VAULT_PROTOCOL, decode_task, decode_update, encode_update
from core.privacy.ledger import Ledger
from core.synthetic.source import name_of, open_source
from core.tasks import Reason, Task, TaskKind, TaskRefusedError, Update, release

TURN = 5.0
"""Seconds that a request waits for another campaign's to end."""

WARM_SITES = 2
BASES = 8
"""Frozen parts of models that are kept, the newest; a site that lacks one is sent it again."""

LEAST_FREE = 64 * 2**20
"""Bytes free on the disk of the state folder with which a task is begun: on a full one its answer would be lost."""

LONGEST_WORD = 200
"""Characters of a campaign's name, and of whatever else a task says in words."""

DONE = "done"

_log = logging.getLogger("cardiofed.vault")


@dataclass
class _AuditLine:
    """What the audit log says of a request; nothing in it comes from a record."""

    bytes_in: int
    kind: str = ""
    campaign: str = ""
    round: int = 0
    request: str = ""
    verdict: str = ""
    released: list[str] = field(default_factory=list)
    bytes_out: int = 0
    cached: bool = False
    seconds: float = 0.0


class Vault:
    """Answers requests from any thread, and computes in the thread that calls :meth:`work`.

    That had better be the main one: on the CPU a network trains up to a third slower in any other.

    Parameters
    ----------
    state : Path
        The hospital's state folder.
    turn : float
        Seconds that a request waits for another campaign's to end.

    Raises
    ------
    CardiofedError
        If ``site.toml``, the records, the ledger or the device cannot be used.
    """

    def __init__(self, state: Path, turn: float = TURN) -> None:
        self.state, self._turns, self._began = state, Turns(turn), time.monotonic()
        site = load_site(state)
        self.device = choose_device(site.device.device, 0)
        use_threads(site.device.threads)
        Ledger.open(state / LEDGER)
        self._records = open_records(site)
        self._records.parts(site, "multi")
        self._warm: OrderedDict[object, Site] = OrderedDict()
        self._opening = threading.Lock()
        self._cache, self._audit = AnswerCache(state / ANSWERS), AuditLog(state / AUDIT)
        self._running: tuple[Task, datetime] | None = None
        self._steps = 0

    def health(self) -> dict[str, Any]:
        """Return that it lives, and as what."""
        return {
            "protocol": VAULT_PROTOCOL,
            "release": release(),
            "device": str(self.device),
            "busy": self._turns.busy,
            "uptime": round(time.monotonic() - self._began, 1),
        }

    def progress(self) -> dict[str, Any]:
        """Return what is being computed.

        ``steps`` is None but in pretraining: on records, their number would tell how many there are.
        """
        running = self._running
        if running is None:
            return {"kind": None, "campaign": "", "round": 0, "rounds": 0, "steps": None, "since": ""}
        task, since = running
        return {
            "kind": str(task.kind),
            "campaign": task.campaign,
            "round": task.round_number,
            "rounds": task.rounds,
            "steps": self._steps if task.kind == TaskKind.PRETRAIN else None,
            "since": since.isoformat(timespec="seconds"),
        }

    def answer(self, body: bytes) -> bytes:
        """Answer a request, and write in the audit log what was asked and what left.

        Parameters
        ----------
        body : bytes
            From :func:`core.messages.encode_task`, or anything else.

        Returns
        -------
        bytes
            For :func:`core.messages.decode_update`.

        Raises
        ------
        TaskRefusedError
            With a reason code, whatever went wrong; the site's log says what.
        """
        line, began = _AuditLine(len(body)), time.monotonic()
        try:
            answer = self._answer(body, line)
            line.verdict, line.bytes_out = DONE, len(answer)
        except Exception as error:
            line.verdict, line.released = str(self._reason_of(error, line)), []
        line.seconds = round(time.monotonic() - began, 3)
        try:
            self._audit.append(**vars(line))
        except Exception:
            # What cannot be written down does not leave; it is kept, and the next request gets it.
            _log.exception("the audit log takes no line")
            line.verdict = str(Reason.FAILED) if line.verdict == DONE else line.verdict
        if line.verdict != DONE:
            raise TaskRefusedError(Reason(line.verdict))
        return answer

    def work(self) -> None:
        """Compute what is asked, until :meth:`stop`."""
        self._turns.work()

    def stop(self) -> None:
        """End the running task at its next step, and then :meth:`work`; may be called by a signal's handler."""
        self._turns.stop()

    def _answer(self, body: bytes, line: _AuditLine) -> bytes:
        request = decode_task(body)
        task = request.task
        line.kind, line.campaign, line.round = str(task.kind), task.campaign, task.round_number
        _require_words(task)
        site = load_site(self.state)
        if not site.allows(task.kind):
            raise TaskRefusedError(Reason.NOT_ALLOWED)
        asked = coordinator_config(request.run_config)
        config = own_config(asked, site)
        records = self._opened(site)
        require_reachable(records, config)
        require_fitting(task, config, records.dataset.info.rate)
        if task.kind == TaskKind.DESCRIBE and not task.campaign:
            # Who are you: nothing is computed, and nobody need wait for the device.
            return self._sealed(self._site(config, site, records, warm=False).run(task), line)
        self._require_approval(task, asked, config, site, records, line)
        key = key_of(task, _circumstances(config, site, records))
        kept = self._cache.get(task.campaign, key)
        line.cached = kept is not None
        if kept is None:
            self._require_room(len(body))
            own = self._site(config, site, records)
            kept = self._turns.result(task.campaign, key, lambda: self._compute(task, key, own))
        line.released = _names(decode_update(kept))
        return kept

    def _sealed(self, update: Update, line: _AuditLine) -> bytes:
        line.released = _names(update)
        return encode_update(update)

    def _require_approval(
        self,
        task: Task,
        asked: ExperimentConfig,
        config: ExperimentConfig,
        site: SiteFile,
        records: Records,
        line: _AuditLine,
    ) -> None:
        synthetic = name_of(open_source(config.synthetic, records.dataset.info)) if pretrains(config) else ""
        request = campaign_request(asked, synthetic)
        line.request = request.hash
        if synthetic and site.tasks.recipes and synthetic not in site.tasks.recipes:
            raise TaskRefusedError(Reason.RECIPE_NOT_ALLOWED, f"synthetic set {synthetic}")
        verdict = decide(self.state, site, request, task.campaign)
        if verdict != "allowed":
            waiting = verdict == "waiting"
            raise TaskRefusedError(Reason.AWAITING_APPROVAL if waiting else Reason.NOT_ALLOWED, f"approval: {verdict}")

    def _compute(self, task: Task, key: str, site: Site) -> bytes:
        # The same question may have been answered while this one came in.
        if (kept := self._cache.get(task.campaign, key)) is not None:
            return kept
        self._steps, self._running = 0, (task, datetime.now(UTC))
        try:
            answer = encode_update(site.run(task))
        finally:
            self._running = None
        if task.kind == TaskKind.TRANSFER:
            # Not kept: what was asked for is the file, which may have been dropped since.
            self._drop_bases()
            return answer
        try:
            self._cache.put(task.campaign, key, answer)
        except OSError:
            # It is paid for, so it had better arrive.
            _log.exception("an answer could not be kept")
        return answer

    def _drop_bases(self) -> None:
        """Drop the oldest frozen parts: each campaign brings another, and a coordinator must not fill the disk."""
        bases = sorted(self.state.glob("base-*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for base in bases[BASES:]:
            base.unlink(missing_ok=True)

    def _opened(self, site: SiteFile) -> Records:
        """Return the records, opened anew where ``site.toml`` names others or their files have changed."""
        with self._opening:
            known = self._records
            if stamp_of(site.data.path) != known.stamp:
                self._records = open_records(site)
            return self._records

    def _site(self, config: ExperimentConfig, site: SiteFile, records: Records, *, warm: bool = True) -> Site:
        """Return the site for these settings, kept with what it has computed of the records."""
        key = (config, site, records.stamp)
        with self._opening:
            if key not in self._warm:
                opened = Site(
                    site.site.name,
                    config,
                    *records.parts(site, config.data.labels),
                    self.state,
                    self.device,
                    site,
                    owns_ledger=True,
                    stopping=self._stepped,
                )
                if not warm:
                    return opened
                self._warm[key] = opened
            self._warm.move_to_end(key)
            while len(self._warm) > WARM_SITES:
                self._warm.popitem(last=False)
            return self._warm[key]

    def _stepped(self) -> bool:
        self._steps += 1
        return self._turns.stopping

    def _require_room(self, size: int) -> None:
        if shutil.disk_usage(self.state).free < LEAST_FREE + 2 * size:
            raise TaskRefusedError(Reason.FAILED, f"the disk of {self.state} is full; free {LEAST_FREE >> 20} MB on it")

    def _reason_of(self, error: Exception, line: _AuditLine) -> Reason:
        """Return the code under which an error leaves, and write the error itself in the site's log."""
        known: Reason | None = None
        if isinstance(error, TaskRefusedError):
            known = error.reason
        elif isinstance(error, (DataError, OSError)):
            known = Reason.DATA_UNREADABLE
        elif isinstance(error, FederationError):
            known = Reason.BAD_REQUEST
        elif isinstance(error, PrivacyError):
            known = Reason(error.reason)
        # As Python would write them: the words are the coordinator's.
        what = f"{line.kind!r} round {line.round} of {line.campaign[:LONGEST_WORD]!r}"
        if known is None:
            _log.error("%s: %s", what, Reason.FAILED, exc_info=error)
            return Reason.FAILED
        _log.warning("%s: %s (%s)", what, known, str(error)[:1000])
        return known


def _require_words(task: Task) -> None:
    """Refuse words that no coordinator of this release sends, before they get into a log or a ledger."""
    words = [value for value in task.settings().values() if isinstance(value, str)]
    if any(len(word) > LONGEST_WORD or not word.isprintable() for word in words):
        raise TaskRefusedError(Reason.BAD_REQUEST, "a word that is too long, or cannot be printed")
    if not task.campaign and task.kind != TaskKind.DESCRIBE:
        raise TaskRefusedError(Reason.BAD_REQUEST, "a task without a campaign")


def _circumstances(config: ExperimentConfig, site: SiteFile, records: Records) -> dict[str, object]:
    """Return what an answer depends on besides the task: what was agreed, and which records it is about."""
    settings = config.to_run_config()
    for name in ("data.path", "run.device", "run.threads"):
        del settings[name]
    policy = site.model_dump(mode="json", include=set(Policy.model_fields))
    return {
        "protocol": VAULT_PROTOCOL,
        "name": site.site.name,
        "settings": settings,
        "policy": policy,
        "records": records.dataset.fingerprint,
    }


def _names(update: Update) -> list[str]:
    """Return the names of what leaves, tensors by their number where they are many."""
    tensors = sorted(update.tensors) if len(update.tensors) <= 4 else [f"{len(update.tensors)} tensors"]
    weight = ["weight"] if update.weight != 1 else []
    return [*sorted(update.numbers), *sorted(update.texts), *tensors, *weight]
