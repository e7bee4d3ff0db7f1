"""A SuperLink that only keeps books: what ``flwr`` would answer, without a process."""

from pathlib import Path

import pytest

from core.errors import FederationError
from server.coordinator import Home, make_home


class StandInSuperLink:
    """Nodes and runs by number, and whether it is up."""

    def __init__(self) -> None:
        self.up, self.nodes, self.runs, self.asked = True, {}, {}, []

    def require_up(self, home: Home) -> None:
        if not self.up:
            raise FederationError(f"the SuperLink of {home.path} is not running; start it")

    def ask(self, home: Home, *words: str) -> dict:
        self.require_up(home)
        self.asked.append(words)
        match words:
            case ("supernode", "register", key, "--name", name):
                node = str(2**63 + len(self.nodes))
                self.nodes[node] = {"node-id": node, "status": "registered", "name": name, "key": Path(key).read_text()}
                return {"success": True, "node-id": int(node)}
            case ("supernode", "unregister", node):
                self.nodes[node]["status"] = "unregistered"
                return {"success": True}
            case ("supernode", "list"):
                return {"success": True, "nodes": list(self.nodes.values())}
            case ("run", app):
                number = str(1000 + len(self.runs))
                self.runs[number] = {"run-id": number, "status": "running", "app": Path(app)}
                self.submitted(number, Path(app))
                return {"success": True, "run-id": number}
            case ("list", "--run-id", number):
                return {"success": True, "runs": [self.runs[number]]}
            case ("stop", number):
                self.runs[number]["status"] = "finished:stopped"
                return {"success": True}
        raise AssertionError(words)

    def submitted(self, number: str, app: Path) -> None:
        """Look at a submitted app while it is there."""


@pytest.fixture
def superlink(monkeypatch) -> StandInSuperLink:
    """The stand-in, in place of the commands."""
    from server import deploying, joined_sites

    stand_in = StandInSuperLink()
    for module in (deploying, joined_sites):
        monkeypatch.setattr(module, "ask_superlink", stand_in.ask)
    monkeypatch.setattr(deploying, "require_up", stand_in.require_up)
    return stand_in


@pytest.fixture
def home(tmp_path) -> Home:
    """A coordinator's home."""
    return make_home(tmp_path / "fed", [])
