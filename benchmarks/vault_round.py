"""What a message costs with a vault, and without one: rounds in which a site does next to nothing, over TLS.

    python benchmarks/vault_round.py [--rounds N]

One coordinator and two SuperNodes over the same simulated records on 127.0.0.1: one carries messages to a vault, the other
opens the site in Flower's own client process, which is started anew for every message. Two tasks: a question that needs
nothing but the site's name, and a round of private training of one step. Sides in turn, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from core.config import ExperimentConfig, with_overrides
from core.synthetic.hospitals import simulated_hospitals
from server.coordinator import open_home
from server.flower_commands import environment, free_port, write_app
from server.joined_sites import joined
from server.superlink import ask_superlink
from simulations.deploy_demo import Demo, is_connected, is_up, wait

SIDES = ("vault", "in-process")

TASKS = ("name", "step")

NO_OP = """
import json, time
from flwr.app import ArrayRecord, Array, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from core.ecg.labels import SUPERCLASSES
from core.models.tensors import all_tensors
from core.messages import PACKED, pack
from core.models.registry import create_model
from core.tasks import Task, TaskKind

NODES, ROUNDS, OUT = {nodes!r}, {rounds!r}, {out!r}
app = ServerApp()


@app.main()
def main(grid, context):
    model = all_tensors(create_model("resnet1d", outputs=len(SUPERCLASSES), rate=100, seed=0))
    seconds = {{task: {{name: [] for name in NODES}} for task in ("name", "step")}}
    for number in range(1, ROUNDS + 2):
        asked = {{
            "name": Task(TaskKind.DESCRIBE, ""),
            "step": Task(TaskKind.FINETUNE, "bench", "finetune", "", number, ROUNDS + 1, tensors=model),
        }}
        for name, node in NODES.items():
            for which, task in asked.items():
                content = RecordDict({{"task": ConfigRecord(dict(task.settings()))}})
                if task.tensors:
                    content["tensors"] = ArrayRecord({{PACKED: Array(pack(task.tensors))}})
                began = time.perf_counter()
                sent = list(grid.push_messages([Message(content, dst_node_id=node, message_type=str(task.kind))]))
                while not (replies := list(grid.pull_messages(sent))):
                    time.sleep(0.05)  # As a campaign does; send_and_receive would look every three seconds.
                assert not replies[0].has_error(), replies
                seconds[which][name].append(time.perf_counter() - began)
    open(OUT, "w").write(json.dumps(seconds))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cfv") as scratch:
        demo = Demo(Path(scratch), lambda line: print(line, file=sys.stderr), free_port())
        try:
            seconds = measured(demo, options.rounds)
        finally:
            demo.end()
    for task in TASKS:
        medians = {name: statistics.median(seconds[task][name][1:]) for name in SIDES}
        for name in SIDES:
            first, *others = seconds[task][name]
            print(f"{task:5s} {name:11s} {medians[name]:.2f} s  (first {first:.2f}; {[round(s, 2) for s in others]})")
        print(f"{task:5s} ratio {medians['vault'] / medians['in-process']:.2f}")


def measured(demo: Demo, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each round by task and side, the first one included."""
    out = demo.out
    simulated_hospitals(hospitals=1, patients=80, seed=0).write(out / "set")
    demo.run("cardiofed-server", "init", demo.home, "--port", demo.port)
    demo.start("coordinator", "cardiofed-server", "up", demo.home, "--host", "127.0.0.1")
    wait("the SuperLink", partial(is_up, demo))
    for name in SIDES:
        demo.run(
            *("cardiofed-site", "init", out / name, "--yes", "--name", name, "--data", out / "set", "--mode", "rules"),
            *("--coordinator", f"127.0.0.1:{demo.port}", "--ca", demo.home / "ca.crt", "--device", "cpu"),
        )
        demo.run("cardiofed-server", "sites", demo.home, "add", out / name / "node.pub", name)
    demo.start("vault", "cardiofed-site", "serve", out / "vault", "--no-check")
    node = [
        *("flower-supernode", "--superlink", f"127.0.0.1:{demo.port}", "--root-certificates", demo.home / "ca.crt"),
        *(
            "--auth-supernode-private-key",
            out / "in-process" / "node.key",
            "--host",
            "127.0.0.1",
            "--port",
            free_port(),
        ),
        *("--node-config", f'partition-id=0 num-partitions=1 state="{out / "in-process"}"'),
    ]
    demo.start("in-process", *node, variables=environment(out / "flwr-home"))
    for name in SIDES:
        wait(f"{name} to be connected", partial(is_connected, demo, name))
    home = open_home(demo.home)
    nodes = {site.name: int(site.node) for site in joined(home)}
    config = with_overrides(
        ExperimentConfig(),
        [
            *(f"data.path={out / 'set'}", "federation.sites=1", "run.device=cpu", "pretrain.enabled=false"),
            *("privacy.enabled=true", "privacy.sampling_rate=1", "finetune.local_epochs=1", "finetune.optimizer=sgd"),
            f"finetune.rounds={rounds + 1}",
        ],
    )
    app, result = out / "app", out / "seconds.json"
    write_app(app, config.to_run_config())
    (app / "server" / "app.py").write_text(NO_OP.format(nodes=nodes, rounds=rounds, out=str(result)))
    ask_superlink(home, "run", str(app))
    deadline = time.monotonic() + 600
    while not result.is_file() and time.monotonic() < deadline:
        time.sleep(0.5)
    return json.loads(result.read_text())


if __name__ == "__main__":
    main()
