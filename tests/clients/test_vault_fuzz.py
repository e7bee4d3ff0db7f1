"""Whatever is sent to a vault, out comes an update that the policy allows, or a reason code and nothing else."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tiny_campaigns import tiny
from tiny_vaults import PRIVATE, body_of, hospital, small_set, training, working

from clients import audit_log
from clients.site_file import load_site
from clients.vault_answers import Vault
from clients.vault_http import create_app
from core.messages import decode_update
from core.models.registry import create_model
from core.models.tensors import all_tensors
from core.privacy.accountant import epsilon
from core.privacy.ledger import Ledger
from core.privacy.release import require_listed
from core.tasks import REASONS, Task, TaskKind

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BUDGET = {"epsilon": 6.0, "delta": 0.001}
STRICT = {
    "budget": BUDGET,
    "tasks": {"private_only": True},
    "release": {"evaluation": "noised", "counts": "noised", "loss": "noised"},
}


class Door:
    """A vault that lets nothing private out in clear, behind its application."""

    def __init__(self, folder, **sections) -> None:
        self.state = hospital(folder / "ward-7", small_set(), **{**STRICT, **sections})
        self.vault = Vault(self.state)
        self.client = TestClient(create_app(self.vault), raise_server_exceptions=False)
        self.config = tiny(folder, *PRIVATE, "transfer.trainable=head")
        classifier = all_tensors(create_model("resnet1d", outputs=5, seed=1))
        base = {name: values for name, values in classifier.items() if not name.startswith("head.")}
        self.base = Task(TaskKind.TRANSFER, "one", "finetune", base="abc", tensors=base)
        # Of a few kilobytes, so that a change anywhere in it is likely to be in something that matters.
        self.body = body_of(training("head", base="abc"), self.config)

    def told(self, body: bytes, task: Task | None = None) -> str:
        """Ask, look at all that comes out, and return "done" or the reason."""
        response = self.client.post("/v1/task", content=body)
        self.look_at(response)
        if response.status_code != 200:
            return response.json()["reason"]
        update = decode_update(response.content)
        if task is not None:
            require_listed(
                task.kind, update.numbers, update.texts, update.tensors, update.weight, frozenset(), phase=task.phase
            )
        return "done"

    def look_at(self, response) -> None:
        raw = response.content + repr(dict(response.headers)).encode()
        # Long enough not to come up by chance among the bytes of noised tensors.
        for secret in (str(self.state), "ward-7", "PATIENT-", "RECORD-", "Traceback", "sqlite", "uvicorn"):
            assert secret.encode() not in raw
        if response.status_code != 200:
            assert b".py" not in raw
            said = response.json()
            assert set(said) == {"reason"}
            assert said["reason"] in REASONS


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    made = Door(tmp_path_factory.mktemp("door"))
    with working(made.vault):
        assert made.told(body_of(made.base, made.config)) == "done"
        assert made.told(made.body, training()) == "done"
        yield made
    verdicts = {line["verdict"] for line in audit_log.read(made.state / "audit.jsonl")}
    # It was not all refused at the first look.
    assert {"done", "bad-request", "not-private", "too-large"} <= verdicts <= {"done", *REASONS}
    ledger = Ledger.open(made.state / "ledger.sqlite")
    ledger.verify()
    # Whatever was asked of it, nobody has spent more than the hospital allows.
    for part in made.vault._records.parts(load_site(made.state), "multi"):
        assert ledger.epsilon(ledger.cohort(part.records), BUDGET["delta"]) <= BUDGET["epsilon"] * (1 + 1e-9)


HOSTILE_SETTINGS = st.one_of(
    st.sampled_from(
        [
            {"privacy.enabled": False},
            {"privacy.epsilon": 1e9},
            {"privacy.delta": 0.9},
            {"privacy.insecure_deterministic": True},
            {"privacy.evaluation": "clear"},
            {"privacy.counts": "clear", "privacy.loss": "clear"},
            {"privacy.counts": "withheld"},
            {"privacy.unit": "record"},
            {"privacy.clip": 1e6},
            {"privacy.sampling_rate": 1.0},
            {"privacy.count_noise": 1.0},
            {"privacy.records_per_patient": 2**31 - 1},
            {"privacy.physical_batch": 2**31 - 1},
            {"data.path": "/etc"},
            {"data.path": "", "data.simulated_patients": 2**31 - 1},
            {"data.train_folds": "[9]", "data.test_folds": "[1]"},
            {"data.normalisation": "none"},
            {"data.labels": "single"},
            {"synthetic.path": "/etc"},
            {"synthetic.cohort": "/etc/passwd"},
            {"synthetic.cohort": "/etc/passwd.json"},
            {"synthetic.size": 2**31 - 1},
            {"pretrain.from_run": "/etc"},
            {"run.state": "/etc", "run.folder": "/etc", "run.out": "/etc"},
            {"run.device": "cuda:5"},
            {"run.threads": 4096},
            {"federation.partition": "site-column", "federation.sites": 2**31 - 1},
            {"model.name": "inception1d"},
            {"transfer.trainable": "all"},
        ]
    ),
    st.dictionaries(
        st.sampled_from(
            ["privacy.noise", "privacy.epsilon", "data.path", "finetune.rounds", "model.name", "x", "", "."]
        ),
        st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.booleans()),
        min_size=1,
        max_size=3,
    ),
)
HOSTILE_TASKS = st.one_of(
    st.just({}),
    st.sampled_from(
        [
            {"kind": "evaluate", "round_number": 0, "rounds": 0, "replicates": 10_000},
            {"kind": "evaluate", "round_number": 0, "rounds": 0},
            {"kind": "evaluate", "phase": "pretrain", "round_number": 0, "rounds": 0},
            {"kind": "evaluate", "phase": "records", "round_number": 0, "rounds": 0},
            {"kind": "query.describe", "tensors": {}},
            {"kind": "query.describe", "campaign": "", "tensors": {}},
            {"kind": "query.transfer", "base": "../../x"},
            {"kind": "query.records"},
            {"kind": "train.pretrain", "phase": "pretrain", "backbone": "/etc/passwd", "rounds": 1},
            {"base": "../site"},
            {"round_number": -1},
            {"round_number": 2},
            {"rounds": 10**9},
            {"shards": 0},
            {"shards": 10**18, "shard": 10**17},
            {"protocol": 99},
        ]
    ),
    st.dictionaries(
        st.sampled_from(["campaign", "phase", "backbone", "base", "shard", "shards", "replicates", "rounds"]),
        st.one_of(st.text(max_size=20), st.integers()),
        min_size=1,
        max_size=2,
    ),
)
HOSTILE_TENSORS = st.one_of(
    st.none(),
    st.builds(
        lambda shape, dtype, value: np.full(shape, value).astype(dtype),
        st.lists(st.integers(0, 130), max_size=3).filter(lambda shape: np.prod(shape) < 10**5),
        st.sampled_from(["f2", "f4", "f8", "i4", "i8", "u1", "?"]),
        st.sampled_from([0.0, 1.0, -1.0]),
    ),
    st.sampled_from([np.nan, np.inf, 1e38, -1e38, 0.0]).map(lambda value: np.full((5, 128), value, np.float32)),
)


def forged(body: bytes, run_config: dict, task: dict, tensor: np.ndarray | None, name: str) -> bytes:
    """A request with other settings, words and tensors, whatever its maker would check."""
    from safetensors.numpy import load, save

    (length,) = struct.unpack_from("<Q", body)
    header, tensors = json.loads(body[8 : 8 + length]), load(body[8 + length :])
    header["run_config"].update(run_config)
    words = dict(task)
    header["kind"] = words.pop("kind", header["kind"])
    tensors = words.pop("tensors", tensors)
    header["task"].update(words)
    if tensor is not None:
        tensors = {**tensors, name: np.ascontiguousarray(tensor)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + save(tensors)


class TestFuzz:
    @given(body=st.binary(max_size=300))
    @settings(FUZZ, max_examples=150)
    def test_bytes(self, door, body):
        assert door.told(body) == "bad-request"

    @given(data=st.data())
    @settings(FUZZ, max_examples=150)
    def test_a_request_changed_in_its_bytes(self, door, data):
        body = bytearray(door.body)
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(body) - 1))
            how = data.draw(st.sampled_from(["flip", "cut", "insert"]))
            if how == "flip":
                body[place] ^= data.draw(st.integers(1, 255))
            elif how == "cut":
                del body[place : place + data.draw(st.integers(1, 50))]
            else:
                body[place:place] = data.draw(st.binary(min_size=1, max_size=20))
            if not body:
                break
        door.told(bytes(body), training())

    @pytest.mark.parametrize("changed", ["settings", "words", "tensors", "all"])
    @given(
        run_config=HOSTILE_SETTINGS,
        task=HOSTILE_TASKS,
        tensor=HOSTILE_TENSORS,
        name=st.sampled_from(["head.weight", "head.bias", "foreign", "signals"]),
    )
    @settings(FUZZ, max_examples=60)
    def test_a_request_with_other_settings_words_and_tensors(self, door, changed, run_config, task, tensor, name):
        task = task if changed in ("words", "all") else {}
        forgery = forged(
            door.body,
            run_config if changed in ("settings", "all") else {},
            task,
            tensor if changed in ("tensors", "all") else None,
            name,
        )
        kind = task.get("kind", "train.finetune")
        listed = Task(TaskKind(kind), "", str(task.get("phase", "finetune"))) if kind in list(TaskKind) else None
        door.told(forgery, listed)

    @given(path=st.text(max_size=30), method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]))
    @settings(FUZZ, max_examples=60)
    def test_a_path(self, door, path, method):
        from urllib.parse import quote

        response = door.client.request(method, f"/x{quote(path)}")
        door.look_at(response)
        assert response.json() == {"reason": "bad-request"}


class TestHostileCoordinator:
    """Requests of a modified app; each obtains a reason code and spends nothing."""

    def spent(self, door) -> float:
        entries = Ledger.open(door.state / "ledger.sqlite").entries()
        return sum(epsilon([entry.mechanism], BUDGET["delta"]) for entry in entries)

    @pytest.mark.parametrize(
        ("run_config", "task", "reason"),
        [
            ({}, {"kind": "query.records"}, "bad-request"),
            ({}, {"kind": "query.records", "phase": "signals"}, "bad-request"),
            ({"privacy.enabled": False}, {}, "not-private"),
            ({"privacy.insecure_deterministic": True}, {}, "insecure-noise"),
            ({"privacy.noise_multiplier": 0.0}, {}, "bad-request"),
            ({"privacy.epsilon": 0.0}, {}, "bad-request"),
            ({"synthetic.path": "/var/lib/other"}, {}, "recipe-not-allowed"),
            ({"synthetic.cohort": "/var/lib/other.json"}, {}, "recipe-not-allowed"),
            ({"synthetic.size": 10**9}, {}, "too-large"),
            ({}, {"base": "../../../etc/x"}, "bad-request"),
            ({}, {"kind": "evaluate", "rounds": 0, "round_number": 1}, "not-released"),
        ],
        ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
    )
    def test_gets_a_reason(self, door, run_config, task, reason):
        before = self.spent(door)
        assert door.told(forged(door.body, run_config, task, None, "")) == reason
        assert self.spent(door) == before

    def test_that_asks_for_a_huge_model_is_refused(self, door):
        huge = np.zeros((5, 10**6), np.float32)
        assert door.told(forged(door.body, {}, {}, huge, "head.weight")) == "too-large"

    def test_that_asks_without_end_gets_no_more_than_the_budget(self, tmp_path):
        made = Door(tmp_path)
        with working(made.vault):
            made.told(body_of(made.base, made.config))
            told = []
            for number in range(20):
                task = training("head", base="abc", campaign=f"c{number}")
                told.append(made.told(body_of(task, made.config), task))
                if told[-1] == "budget-exhausted":
                    break
        assert told[0] == "done"
        assert told[-1] == "budget-exhausted"
        ledger = Ledger.open(made.state / "ledger.sqlite")
        train, _ = made.vault._records.parts(load_site(made.state), "multi")
        assert ledger.epsilon(ledger.cohort(train.records), BUDGET["delta"]) <= BUDGET["epsilon"]
