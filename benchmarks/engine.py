"""How much the engines cost, in ratios measured side by side in one run.

    python benchmarks/engine.py            everything, a few minutes
    python benchmarks/engine.py loop       loopback against a plain training loop
    python benchmarks/engine.py ray        the quick start, loopback against Flower's simulation runtime
    python benchmarks/engine.py sites      peak memory of 100 sites
    python benchmarks/engine.py drawn      rounds of 20 out of 200 sites against rounds of 4, and memory from round to round
    python benchmarks/engine.py open       opening an imported set of 20,000 records

Each line printed is one JSON object. Pairs are run alternately; the ratio is of the medians.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICKSTART, HOSPITALS = ROOT / "configs" / "quickstart.toml", ROOT / "configs" / "hospitals.toml"
COMMAND = Path(sys.executable).parent / "cardiofed"


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def alternate(first: Callable[[], float], second: Callable[[], float], times: int) -> tuple[list[float], list[float]]:
    """Run two sides in turn, so that what disturbs the machine disturbs both."""
    pairs = [(first(), second()) for _ in range(times)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def loop(times: int = 2) -> None:
    """Time a campaign over simulated hospitals against its gradient steps in a bare loop: streamed, then held in memory."""
    import numpy as np
    import torch
    from torch.nn import functional

    from clients.hospital import open_federation
    from core.config import load_config
    from core.learning.regression import pretext_batches, target_code
    from core.learning.training import shuffled_batches, use_threads
    from core.models.registry import create_model
    from core.synthetic.recipe import recipe_of, shard_bounds
    from core.synthetic.stream import stream
    from server.run_folder import RunFolder
    from simulations.engine import run_loopback

    class Silent:
        def phase(self, title: str, answers: int, done: int) -> None: ...
        def answered(self, site: str) -> None: ...
        def round_finished(self, line: dict) -> None: ...

    config = load_config(HOSPITALS, ["run.bootstrap=0"])
    use_threads(config.run.threads)
    federation = open_federation(config)
    sites = config.federation.sites
    recipe = recipe_of(config.synthetic, federation.dataset.info.rate)
    code = target_code(recipe, config.pretrain.targets, config.data.normalisation)
    rows = np.concatenate([hospital.train for hospital in federation.hospitals])
    records = federation.dataset.batch(rows, config.data.normalisation)
    labels = federation.dataset.labels[rows].astype(np.float32)
    starts = np.cumsum([0, *(len(hospital.train) for hospital in federation.hospitals)])
    steps = 0

    def streamed() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        settings = config.pretrain
        for round_ in range(settings.rounds):
            for number in range(sites):
                made = stream(
                    recipe, *shard_bounds(recipe, number, sites), batch_size=settings.batch_size,
                    epochs=settings.local_epochs, seed=round_, device="cpu",
                )  # fmt: skip
                # A conduction block has no PR; what to do about it is not what is timed.
                yield from ((x, truth.values.nan_to_num()) for x, truth in pretext_batches(made, code))

    def held() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        settings = config.finetune
        for _ in range(settings.rounds):
            for start, stop in itertools.pairwise(starts):
                for batch in shuffled_batches(stop - start, settings.batch_size, settings.local_epochs, 0):
                    yield torch.from_numpy(records[start + batch]), torch.from_numpy(labels[start + batch])

    def plain() -> float:
        nonlocal steps
        began, steps = time.perf_counter(), 0
        for batches, outputs, settings, loss in (
            (streamed(), len(code.mean), config.pretrain, functional.l1_loss),
            (held(), labels.shape[1], config.finetune, functional.binary_cross_entropy_with_logits),
        ):
            model = create_model(config.model.name, outputs=outputs, seed=0)
            model.train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
            for x, y in batches:
                optimizer.zero_grad()
                loss(model(x), y).backward()
                optimizer.step()
                steps += 1
        return time.perf_counter() - began

    def engine() -> float:
        with tempfile.TemporaryDirectory() as scratch:
            folder = RunFolder(Path(scratch))
            run = config.model_copy(update={"run": config.run.model_copy(update={"folder": scratch})})
            began = time.perf_counter()
            run_loopback(run, folder, Silent())
            return time.perf_counter() - began

    engine_seconds, plain_seconds = alternate(engine, plain, times)
    ratio = statistics.median(engine_seconds) / statistics.median(plain_seconds)
    say(
        benchmark="loopback against plain loop",
        ratio=round(ratio, 3),
        target=1.15,
        steps=steps,
        loopback_s=[round(s, 2) for s in engine_seconds],
        plain_s=[round(s, 2) for s in plain_seconds],
        note="the engine's side also evaluates each round, writes checkpoints and combines updates",
    )


ENGINE = """
import sys, time
from pathlib import Path
from core.config import load_config
from simulations.engine import run_loopback
from simulations.ray_engine import run_ray
from simulations.simulate import start
from server.watching import LogObserver

folder, config = start(load_config(Path(sys.argv[1]), [f"run.engine={sys.argv[2]}", f"run.folder={sys.argv[3]}"]))
began = time.perf_counter()
{"loopback": run_loopback, "ray": run_ray}[sys.argv[2]](config, folder, LogObserver())
print(time.perf_counter() - began)
"""


def ray(times: int = 3) -> None:
    """Time the quick start under both engines: the engine alone, each time in a fresh process, and the whole process."""

    def side(engine: str) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-c", ENGINE, QUICKSTART, engine, f"{scratch}/run"]
            began = time.perf_counter()
            shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
            return float(shown.splitlines()[-1]), time.perf_counter() - began

    pairs = [(side("loopback"), side("ray")) for _ in range(times)]
    engine, process = ([[pair[side][what] for pair in pairs] for side in (0, 1)] for what in (0, 1))
    for name, (loopback_seconds, ray_seconds) in (("engine alone", engine), ("whole process", process)):
        say(
            benchmark=f"quick start, loopback against ray, {name}",
            ratio=round(statistics.median(loopback_seconds) / statistics.median(ray_seconds), 3),
            target=round(1 / 3, 3),
            loopback_s=[round(s, 1) for s in loopback_seconds],
            ray_s=[round(s, 1) for s in ray_seconds],
        )


def sites() -> None:
    """Measure the peak memory of a campaign over 100 simulated hospitals, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        changes = [
            "federation.sites=100", "data.simulated_patients=100", "synthetic.size=20000", "pretrain.batch_size=64",
            "pretrain.rounds=1", "finetune.rounds=2", "finetune.local_epochs=1", "finetune.batch_size=16",
            "federation.min_classes=1", f"run.out={scratch}",
        ]  # fmt: skip
        command = [str(COMMAND), "simulate", str(QUICKSTART), *(word for c in changes for word in ("--set", c))]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    say(benchmark="100 sites", peak_gib=round(peak, 2), target=4.0, seconds=round(time.perf_counter() - began, 1))


ROUNDS = """
import json, sys, time
from pathlib import Path
from core.config import load_config
from simulations.engine import run_loopback
from simulations.simulate import start
from server.watching import LogObserver

class Watch(LogObserver):
    rounds = []

    def round_finished(self, line):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        mib = {name: int(status[name].split()[0]) / 1024 for name in ("RssAnon", "VmHWM")}
        self.rounds.append({"seconds": line["seconds"], "answered": len(line["answered"]), **mib})

folder, config = start(load_config(Path(sys.argv[1]), sys.argv[2:]))
began = time.perf_counter()
run_loopback(config, folder, Watch())
print(json.dumps({"rounds": Watch.rounds, "whole_s": time.perf_counter() - began}))
"""


def drawn(rounds: int = 10) -> None:
    """Compare rounds of a tenth of 200 hospitals with rounds of 4, over one set on the disk, each in a fresh process."""
    from core.synthetic.hospitals import simulated_hospitals

    with tempfile.TemporaryDirectory() as scratch:
        simulated_hospitals(hospitals=200, patients=40, seed=0).write(Path(scratch) / "set")
        for sites, fraction in ((4, 1.0), (200, 0.1)):
            changes = [
                f"data.path={scratch}/set", "federation.partition=site-column", f"federation.sites={sites}",
                f"federation.fraction={fraction}", f"finetune.rounds={rounds}", "finetune.local_epochs=1",
                "pretrain.enabled=false", "federation.min_classes=1", "run.threads=1", f"run.folder={scratch}/run-{sites}",
            ]  # fmt: skip
            command = [sys.executable, "-c", ROUNDS, QUICKSTART, *changes]
            shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
            told = json.loads(shown.splitlines()[-1])
            seconds = [each["seconds"] for each in told["rounds"]]
            asked = told["rounds"][0]["answered"]
            say(
                benchmark=f"rounds of {asked} out of {sites} sites",
                round_s=round(statistics.median(seconds), 2),
                site_s=round(statistics.median(seconds) / asked, 3),
                first_round_s=seconds[0],
                own_memory_mib=[round(told["rounds"][number]["RssAnon"]) for number in (0, len(seconds) // 2, -1)],
                peak_mib=[round(told["rounds"][number]["VmHWM"]) for number in (0, -1)],
                whole_s=round(told["whole_s"], 1),
                note="memory after the first, the middle and the last round; a round measures at the sites that it asks",
            )


def opening(times: int = 5) -> None:
    """Time opening a set of 20,000 records that was written by the project itself."""
    import numpy as np

    from core.ecg.dataset import EcgDataset
    from core.synthetic.hospitals import simulated_hospitals

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "set"
        few = simulated_hospitals(hospitals=4, patients=500, seed=0)
        many = few.select(np.resize(np.arange(len(few)), 20_000))
        names = [f"record-{number:06d}" for number in range(len(many))]
        EcgDataset(many.signals, many.records.assign(record=names), many.info).write(path)
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            opened = EcgDataset.open(path)
            seconds.append(time.perf_counter() - began)
        assert len(opened) == 20_000
    say(benchmark="open 20,000 records", seconds=round(statistics.median(seconds), 4), target=0.2)


PARTS: dict[str, Callable[[], None]] = {"loop": loop, "ray": ray, "sites": sites, "drawn": drawn, "open": opening}

if __name__ == "__main__":
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    for part in sys.argv[1:] or ["sites", "drawn", "loop", "open", "ray"]:
        PARTS[part]()
