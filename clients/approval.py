"""Who says yes to a campaign: the rules of ``site.toml``, or a person who is shown all that it asks.

An approval is for one request under one campaign's name: another setting, or the same request under another name, which
the ledger would give a budget of its own, is asked anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.config_sections import RELEASES
from core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from clients.site_file import SiteFile
    from core.config import ExperimentConfig

FOLDER = "requests"
"""In a site's state folder."""

MOST_WAITING = 50
"""Requests that wait at once: a coordinator that invents campaigns must not fill the disk."""

LONGEST = 16 * 1024
"""Characters of a request."""

NOT_THE_SITES = (
    *("data.path", "data.train_folds", "data.test_folds", "data.simulated_patients"),
    *("synthetic.path", "pretrain.from_run"),
    *("federation.sites", "federation.partition", "federation.alpha", "federation.min_sites"),
    *(
        "federation.column",
        "federation.members",
        "federation.pooled",
        "federation.max_patients",
        "federation.min_patients",
        "federation.min_classes",
    ),
    *("federation.round_minutes", "federation.grace_minutes", "federation.wait_minutes", "federation.resend_minutes"),
    *("run.predictions", "run.trackers"),
    *("federation.fraction", "federation.server_learning_rate", "federation.server_momentum"),
    *("federation.server_adaptivity", "federation.trim"),
    *("run.name", "run.out", "run.folder", "run.state", "run.engine", "run.device", "run.threads", "run.examples"),
)
"""Settings that a hospital replaces by its own, or that change nothing there. Whatever else there is, is approved."""

Value = bool | int | float | str
State = Literal["waiting", "approved", "refused"]


@dataclass(frozen=True)
class CampaignRequest:
    """Everything of a coordinator's settings that a hospital decides on.

    Attributes
    ----------
    synthetic : str
        What names the shared synthetic set; empty where a campaign uses none.
    settings : tuple of (str, value)
        Dotted names as in ``configs/README.md``, sorted; none of :data:`NOT_THE_SITES`.
    """

    synthetic: str
    settings: tuple[tuple[str, Value], ...]

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of the request's canonical JSON."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def canonical(self) -> str:
        """The request as JSON that is equal for equal requests."""
        whole = {"synthetic": self.synthetic, "settings": dict(self.settings)}
        return json.dumps(whole, sort_keys=True, separators=(",", ":"))

    @property
    def model(self) -> str:
        """The model family."""
        return str(dict(self.settings).get("model.name", ""))

    def lines(self) -> list[str]:
        """Say what is asked, the weightiest first, every setting named."""
        return _lines(self.synthetic, dict(self.settings))


@dataclass(frozen=True)
class Filed:
    """A request that was filed for a person to decide on.

    Attributes
    ----------
    name : str
        Of its file: the request's hash, a dash, and eight digits for the campaign.
    campaign : str
        As the coordinator calls it.
    request : CampaignRequest
    asked, answered : str
        UTC, ISO 8601; ``answered`` is empty while it waits.
    state : str
        ``waiting``, ``approved`` or ``refused``.
    by : str
        Who answered.
    """

    name: str
    campaign: str
    request: CampaignRequest
    asked: str
    state: State = "waiting"
    answered: str = ""
    by: str = ""


def campaign_request(config: ExperimentConfig, synthetic: str) -> CampaignRequest:
    """Return what a hospital decides on.

    Parameters
    ----------
    config : ExperimentConfig
        As the coordinator sent it, or with the site's own settings in place: that makes no difference.
    synthetic : str
        What names the shared synthetic set (:func:`core.synthetic.source.name_of`); empty without pretraining.
    """
    flat = config.to_run_config()
    kept = ((name, value) for name, value in flat.items() if name not in NOT_THE_SITES)
    return CampaignRequest(synthetic, tuple(sorted(kept)))


def decide(state: Path, site: SiteFile, request: CampaignRequest, campaign: str) -> str:
    """Return ``allowed``, ``waiting`` or ``refused``.

    What ``site.toml`` does not allow is refused, and so is what a person refused, in either mode. In the mode ``ask`` a
    request that is new is filed, and waits.

    Raises
    ------
    DataError
        If what was answered cannot be read, or a new request cannot be filed.
    """
    if site.approval.models and request.model not in site.approval.models:
        return "refused"
    if site.tasks.recipes and request.synthetic and request.synthetic not in site.tasks.recipes:
        return "refused"
    path = _file(state, request, campaign)
    # A person's answer to just this request; a damaged one is an error, never a yes.
    filed = _read(path) if path.exists() else None
    if filed is not None and (filed.request, filed.campaign) != (request, campaign):
        raise DataError(f"{path} holds another request than its name says; delete it, and it is asked anew")
    if filed is not None and filed.state != "waiting":
        return "refused" if filed.state == "refused" else "allowed"
    if site.approval.mode == "rules":
        return "allowed"
    if filed is None:
        if len(request.canonical) + len(campaign) > LONGEST:
            return "refused"
        if sum(each.state == "waiting" for each in requests(state)) >= MOST_WAITING:
            return "refused"
        _write(path, Filed(path.stem, campaign, request, _now()))
    return "waiting"


def requests(state: Path) -> list[Filed]:
    """List every request that was filed, oldest first.

    Raises
    ------
    DataError
        Names a file that is damaged, and the mend.
    """
    return sorted(
        (_read(path) for path in (state / FOLDER).glob("*.json")), key=lambda filed: (filed.asked, filed.name)
    )


def find(state: Path, prefix: str) -> Filed:
    """Return the one request whose name begins so.

    Raises
    ------
    ConfigError
        If none does, or several do.
    """
    found = [filed for filed in requests(state) if filed.name.startswith(prefix.strip().lower())]
    if not found or not prefix.strip():
        raise ConfigError(f"no request begins with {prefix!r}; see them with: cardiofed-site approve {state}")
    if len(found) > 1:
        several = " and ".join(filed.name[: _shown(filed, found)] for filed in found[:2])
        raise ConfigError(f"{len(found)} requests begin with {prefix!r}, such as {several}; give more of the name")
    return found[0]


def answer(state: Path, hash_prefix: str, approved: bool, by: str) -> Filed:
    """Write down a person's answer, which may also change an earlier one.

    Raises
    ------
    ConfigError
        If no request, or more than one, begins so.
    DataError
        If the answer cannot be written.
    """
    filed = find(state, hash_prefix)
    changed = replace(filed, state="approved" if approved else "refused", answered=_now(), by=by)
    _write(state / FOLDER / f"{filed.name}.json", changed)
    return changed


def short_name(filed: Filed, among: list[Filed]) -> str:
    """Return the beginning of a name that tells it from all others; at least eight digits."""
    return filed.name[: _shown(filed, among)]


def _shown(filed: Filed, among: list[Filed]) -> int:
    others = [each.name for each in among if each.name != filed.name]
    return next((n for n in range(8, len(filed.name)) if not any(o[:n] == filed.name[:n] for o in others)), 73)


def beside_policy(site: SiteFile, request: CampaignRequest) -> list[str]:
    """Say where ``site.toml`` is stricter than a request, so that a person knows what an approval would come to."""
    asked, lines = dict(request.settings), []
    if not asked.get("privacy.enabled"):
        if site.tasks.private_only:
            lines.append("training on records without privacy is asked; site.toml refuses it (tasks.private_only)")
    else:
        most = min(site.budget.epsilon, site.budget.campaign_epsilon or site.budget.epsilon)
        if float(asked.get("privacy.epsilon", 0)) > most:
            lines.append(
                f"epsilon {_shown_value(asked['privacy.epsilon'])} is asked; site.toml allows {most:g}, and that holds"
            )
        if float(asked.get("privacy.delta", 0)) > site.budget.delta:
            lines.append(
                f"delta {_shown_value(asked['privacy.delta'])} is asked; site.toml allows {site.budget.delta:g}"
            )
    for item in RELEASES:
        allowed, wanted = getattr(site.release, item), asked.get(f"privacy.{item}")
        if asked.get("privacy.enabled") and wanted != allowed and wanted in _OPEN.get(allowed, ()):
            lines.append(f"{item} is asked {wanted}; site.toml says {allowed}, and that holds")
    if asked.get("privacy.insecure_deterministic") and not site.tasks.insecure_deterministic:
        lines.append("noise from a known seed is asked, which protects nobody; site.toml refuses it")
    return lines


_OPEN = {"withheld": ("clear", "noised"), "noised": ("clear",)}

_FIRST = {
    "pretrain.enabled": "pretraining",
    "model.name": "model family",
    "transfer.trainable": "what is trained",
    "pretrain.targets": "pretraining targets",
    "finetune.rounds": "rounds",
    "finetune.local_epochs": "passes a round",
    "privacy.enabled": "with privacy",
    "privacy.epsilon": "epsilon, at most",
    "privacy.delta": "delta",
    "privacy.unit": "whom it protects",
    "privacy.clip": "clip",
    "privacy.sampling_rate": "sampling rate",
    "privacy.evaluation": "score histograms leave",
    "privacy.counts": "numbers of patients leave",
    "privacy.loss": "losses leave",
}


def _lines(synthetic: str, settings: Mapping[str, Value]) -> list[str]:
    lines = [f"{words}: {_shown_value(settings[name])}  ({name})" for name, words in _FIRST.items() if name in settings]
    lines.append(f"synthetic set: {printable(synthetic) or 'none'}")
    lines += [f"{name} = {_shown_value(value)}" for name, value in sorted(settings.items()) if name not in _FIRST]
    return lines


def _shown_value(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """Take from a text that came from elsewhere what would steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _file(state: Path, request: CampaignRequest, campaign: str) -> Path:
    # surrogatepass: a campaign may be any text that JSON carries.
    campaign_digits = hashlib.sha256(campaign.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return state / FOLDER / f"{request.hash}-{campaign_digits}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, filed: Filed) -> None:
    content = {name: value for name, value in asdict(filed).items() if name not in ("name", "request")}
    content |= {"synthetic": filed.request.synthetic, "settings": dict(filed.request.settings)}
    partial = None
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # mkstemp: 0600, and a name of its own where two processes file the same.
        descriptor, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
    except OSError as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written ({error.strerror}); free its disk or mend its permissions") from None


def _read(path: Path) -> Filed:
    try:
        content: Any = json.loads(path.read_text(encoding="ascii"))
        texts = {name: content[name] for name in ("campaign", "asked", "state", "answered", "by", "synthetic")}
        settings = content["settings"]
        sound = (
            all(isinstance(text, str) for text in texts.values())
            and texts["state"] in ("waiting", "approved", "refused")
            and all(isinstance(value, (bool, int, float, str)) for value in settings.values())
        )
        if not sound:
            raise TypeError
        request = CampaignRequest(texts.pop("synthetic"), tuple(sorted(settings.items())))
        filed = Filed(name=path.stem, request=request, **texts)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DataError(f"{path} is damaged; delete it, and the coordinator's next request is filed anew") from None
    return filed
