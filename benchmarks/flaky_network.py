"""A day of a flaky network: one coordinator, three hospitals with a vault each, and a private campaign of many short rounds.

    python benchmarks/flaky_network.py --out DIR [--hours 24] [--scale 60] [--rounds N] [--data PTBXL]

Real processes, TLS and node keys on 127.0.0.1; each hospital reaches the coordinator through a proxy of its own
(flaky_proxy.py) that cuts, refuses, stalls and loses replies at random, from a seed; the SuperLink is killed with -9 on the
way, and whenever the campaign stops it is resumed. ``--scale`` simulated seconds pass in a real one: weather and the
campaign's own waiting (round_minutes, grace_minutes, wait_minutes, resend_minutes) are divided by it. Flower's own timers
(heartbeat 30 s, poll 3 s, retries up to 60 s, broken uploads 180 s) and the work itself are not, so that to them the network
is so many times worse than the simulated one.

At the end: the campaign is done, every round once; each ledger verifies and holds each round that was asked for once, with
the steps of its plan, however often its reply was lost, and the epsilon that the results say. ``DIR`` gets memory.csv,
memory.png and summary.json. Exit code 1: something of this does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import signal
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from flaky_proxy import Network

from clients import audit_log
from core.privacy.accountant import epsilon
from core.privacy.ledger import Ledger, LedgerEntry, verify
from core.privacy.plan import steps_per_round
from core.processes import FLOWER_HOME, processes_with
from server.coordinator import open_home
from server.flower_commands import free_port
from simulations.deploy_demo import SITES, Demo, DemoError, is_connected, is_up, make_records, processes_naming, wait

EPSILON, SAMPLING_RATE, LOCAL_EPOCHS = 8.0, 0.2, 1
ROUND, GRACE, WAIT, RESEND = 60.0, 20.0, 360.0, 30.0
"""Simulated minutes: of a round, for a site that is away, for sites to come back, until a question is sent again."""

ROUND_SECONDS = 11.0
"""Real ones that a round takes, about: how many fill the day."""

SAMPLE_SECONDS, RESUME_SECONDS, CALM_SECONDS = 3.0, 5.0, 900.0
FLAT = 1.1
"""Most that the last quarter's memory may be of the first one's."""

OURS = ("vault", "ServerApp")
"""Whose memory must be flat; the other programs are Flower's."""


@dataclass(frozen=True)
class Sample:
    """The memory of a process at one time: seconds since the weather began, MB resident."""

    seconds: float
    role: str
    pid: int
    megabytes: float


@dataclass
class Day:
    """What happened."""

    samples: list[Sample] = field(default_factory=list)
    resumes: int = 0
    kills: int = 0
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--hours", type=float, default=24.0, help="simulated hours (default: 24)")
    parser.add_argument("--scale", type=float, default=60.0, help="simulated seconds in a real one (default: 60)")
    parser.add_argument("--rounds", type=int, help="of the campaign; default: as many as fill the hours")
    parser.add_argument("--kills", type=int, default=2, help="of the SuperLink, evenly over the hours (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the weather (default: 0)")
    parser.add_argument("--data", type=Path, help="PTB-XL in its official layout; default: simulated patients")
    options = parser.parse_args()
    # Else the hospitals would go on without it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out, real_seconds = options.out.absolute(), 3600 * options.hours / options.scale
    rounds = options.rounds or max(2, round(real_seconds / ROUND_SECONDS))
    demo = Demo(out, lambda line: print(line, file=sys.stderr, flush=True), free_port())
    network = None
    try:
        make_records(demo, options.data)
        network = serve(demo)
        run = demo.out / "run"
        (out / "campaign.toml").write_text(campaign_toml(rounds, options.scale))
        demo.start("campaign", "cardiofed-server", "run", demo.home, out / "campaign.toml", "--out", run)
        network.begin(options.hours, options.seed, options.scale)
        day = live(demo, real_seconds, options.kills)
        wait("the last tasks to be settled", lambda: all(_is_settled(demo, site) for site in SITES))
    finally:
        demo.end()
        if network is not None:
            network.end()
    summary: dict[str, Any] = {
        "simulated_hours": round(day.seconds * options.scale / 3600, 2),
        "real_minutes": round(day.seconds / 60, 1),
        "scale": options.scale,
        "rounds": rounds,
        "superlink_kills": day.kills,
        "resumes": day.resumes,
        "weather": {name: dict(line.done) for name, line in network.lines.items()},
        "memory": memory_of(day.samples),
    }
    failures = wrong_in_run(run, rounds)
    summary["sites"] = {site: told_of(demo, run, site, failures) for site in SITES}
    failures += [
        f"the memory of {role} grew by {100 * (ratio - 1):.0f} %"
        for role, each in summary["memory"].items()
        if role.startswith(OURS) and (ratio := each["last_over_first"]) > FLAT
    ]
    summary["failures"] = failures
    write_memory(out, day.samples, options.scale)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    sys.exit(bool(failures))


def campaign_toml(rounds: int, scale: float) -> str:
    """Return the settings of a private campaign whose waiting is so many times shorter."""
    return f"""
[pretrain]
enabled = false

[finetune]
rounds = {rounds}
local_epochs = {LOCAL_EPOCHS}
optimizer = "sgd"
learning_rate = 0.05
momentum = 0.0
weight_decay = 0.0

[privacy]
enabled = true
epsilon = {EPSILON}
sampling_rate = {SAMPLING_RATE}

[federation]
min_sites = 2
round_minutes = {ROUND / scale}
grace_minutes = {GRACE / scale}
wait_minutes = {WAIT / scale}
resend_minutes = {RESEND / scale}

[run]
name = "flaky"
bootstrap = 0
"""


def serve(demo: Demo) -> Network:
    """Start coordinator, proxies and hospitals, and wait until all are connected."""
    demo.run("cardiofed-server", "init", demo.home, "--port", demo.port)
    demo.start("coordinator", "cardiofed-server", "up", demo.home, "--host", "127.0.0.1")
    wait("the SuperLink to listen", partial(is_up, demo))
    network = Network({site: free_port() for site in SITES}, demo.port)
    for site, line in network.lines.items():
        state = demo.state(site)
        demo.run(
            *("cardiofed-site", "init", state, "--yes", "--name", site, "--data", demo.out / f"records-{site}"),
            *("--coordinator", f"127.0.0.1:{line.port}", "--ca", demo.home / "ca.crt", "--device", "cpu"),
            *("--mode", "rules"),
        )
        path = state / "site.toml"
        path.write_text(path.read_text().replace("\nthreads = 0\n", "\nthreads = 1\n"))
        demo.run("cardiofed-server", "sites", demo.home, "add", state / "node.pub", site)
        demo.start(site, "cardiofed-site", "serve", state, "--no-check")
    for site in SITES:
        wait(f"{site} to be connected", partial(is_connected, demo, site))
    return network


def live(demo: Demo, real_seconds: float, kills: int) -> Day:
    """Go through the day until the campaign is done: resume it when it stops, kill the SuperLink when it is time."""
    day, began, resume_at = Day(), time.monotonic(), 0.0
    kill_at = [real_seconds * number / (kills + 1) for number in range(1, kills + 1)]
    while (ended := demo.processes["campaign"].poll()) != 0:
        now = time.monotonic() - began
        if now > 2 * real_seconds + CALM_SECONDS:
            raise DemoError(f"the campaign has not ended {now - real_seconds:.0f} s after the weather")
        if kill_at and now >= kill_at[0]:
            kill_at.pop(0)
            for pid in processes_naming("flower-superlink", str(demo.home)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    day.kills += 1
        if ended is not None and now >= resume_at and is_up(demo):
            day.resumes, resume_at = day.resumes + 1, now + RESUME_SECONDS
            demo.start("campaign", "cardiofed-server", "resume", demo.home, demo.out / "run")
        day.samples += sampled(demo, now)
        day.seconds = now
        time.sleep(SAMPLE_SECONDS)
    return day


def sampled(demo: Demo, now: float) -> list[Sample]:
    """Return the memory of all lasting processes."""
    words = {"SuperLink": ("flower-superlink", str(demo.home)), "door": ("server.gate", str(demo.home))}
    for site in SITES:
        words[f"vault {site}"] = ("clients.vault", f"{demo.state(site)} ")
        words[f"SuperNode {site}"] = ("--auth-supernode-private-key", f"{demo.state(site)}/node.key")
    found = [(role, pid) for role, signs in words.items() for pid in processes_naming(*signs)]
    # Flower names it by nothing in its command line that is this coordinator's alone.
    of_link = set(processes_with(FLOWER_HOME, str(open_home(demo.home).superlink_home)))
    found += [("ServerApp", pid) for pid in processes_naming("flwr-serverapp") if pid in of_link]
    samples = []
    for role, pid in found:
        with contextlib.suppress(psutil.Error):
            samples.append(Sample(now, role, pid, psutil.Process(pid).memory_info().rss / 2**20))
    return samples


def wrong_in_run(run: Path, rounds: int) -> list[str]:
    """Return what the coordinator did not do, or did twice."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    status = json.loads((run / "run.json").read_text())["status"]
    wrong = [] if status == "done" else [f"the campaign's status is {status}"]
    if [line["round"] for line in lines] != list(range(1, rounds + 1)):
        wrong.append(f"the rounds are {[line['round'] for line in lines]}")
    return wrong


def told_of(demo: Demo, run: Path, site: str, failures: list[str]) -> dict[str, Any]:
    """Return what a hospital did and spent, by its own ledger and audit log, and add what is wrong with it."""

    def require(holds: bool, sentence: str) -> None:
        if not holds:
            failures.append(f"{site}: {sentence}")

    ledger = demo.state(site) / "ledger.sqlite"
    require(verify(ledger).intact, "its ledger does not verify")
    entries = Ledger.open(ledger).entries()
    paid = Counter((entry.campaign, entry.task, entry.round) for entry in entries)
    twice = [each for each, times in paid.items() if times > 1]
    require(not twice, f"paid twice: {twice}")
    require(all(entry.status == "done" for entry in entries), "an entry was not settled as done")
    training = [entry for entry in entries if entry.task == "train.finetune"]
    steps = steps_per_round(SAMPLING_RATE, LOCAL_EPOCHS)
    require(all(entry.steps == steps for entry in training), f"a round has not the plan's {steps} steps")
    done = [line for line in audit_log.read(demo.state(site) / audit_log.FILE) if line["verdict"] == "done"]
    asked = {line["round"] for line in done if line["kind"] == "train.finetune"}
    require({entry.round for entry in training} == asked, "other rounds were paid than were asked for")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    answered = [line["round"] for line in lines if site in line["answered"]]
    require(set(answered) <= asked, "a round was answered that was not paid")
    rows = {row["name"]: row for row in json.loads((run / "results.json").read_text())["privacy"]["sites"]}
    if site not in rows:
        failures.append(f"{site}: it was away when the campaign began, and stayed outside of it")
        return {"rounds_paid": len(training), "rounds_answered": 0}
    told = rows[site]
    on_patients = [entry for entry in entries if entry.task != "evaluate"]
    spent = _epsilon(on_patients, told["delta"])
    # What a site spent on a round whose answer came too late is known to its ledger alone.
    known = [entry for entry in on_patients if entry.round <= max(answered)]
    require(abs(_epsilon(known, told["delta"]) - told["epsilon"]) < 1e-6, "the results say another epsilon")
    require(spent <= EPSILON, f"epsilon {spent} was spent of {EPSILON}")
    tested = _epsilon([entry for entry in entries if entry.task == "evaluate"], told["delta"])
    require(
        told["epsilon_evaluation"] is None or abs(tested - told["epsilon_evaluation"]) < 1e-6, "evaluation's epsilon"
    )
    return {
        "rounds_paid": len(training),
        "rounds_answered": len(answered),
        "steps_paid": sum(entry.steps for entry in training),
        "answered_from_the_cache": dict(Counter(line["kind"] for line in done if line["cached"])),
        "epsilon_ledger": round(spent, 6),
        "epsilon_results": round(told["epsilon"], 6),
        "epsilon_evaluation": round(tested, 6),
    }


def memory_of(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Return for each role the medians of first and last quarter (MB), and the slope of its longest life's second half."""
    summary = {}
    longest = max(sample.seconds for sample in samples)
    for role in sorted({sample.role for sample in samples}):
        own = [sample for sample in samples if sample.role == role]
        first = [sample.megabytes for sample in own if sample.seconds <= longest / 4] or [own[0].megabytes]
        last = [sample.megabytes for sample in own if sample.seconds >= 3 * longest / 4] or [own[-1].megabytes]
        pid, _ = Counter(sample.pid for sample in own).most_common(1)[0]
        life = [(sample.seconds / 3600, sample.megabytes) for sample in own if sample.pid == pid]
        later = life[len(life) // 2 :]
        slope = float(np.polyfit(*zip(*later, strict=True), 1)[0]) if len(later) > 2 else 0.0
        before, after = statistics.median(first), statistics.median(last)
        summary[role] = {
            "first_quarter": round(before, 1),
            "last_quarter": round(after, 1),
            "last_over_first": round(after / before, 3),
            "processes": len({sample.pid for sample in own}),
            "longest_life_minutes": round(60 * (life[-1][0] - life[0][0]), 1),
            "mb_per_real_hour": round(slope, 1),
        }
    return summary


def write_memory(out: Path, samples: list[Sample], scale: float) -> None:
    """Write memory.csv and memory.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (out / "memory.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["real_seconds", "role", "process", "resident_mb"])
        table.writerows([round(each.seconds, 1), each.role, each.pid, round(each.megabytes, 2)] for each in samples)
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for role in sorted({sample.role for sample in samples}):
        own = [sample for sample in samples if sample.role == role]
        axes.plot([each.seconds * scale / 3600 for each in own], [each.megabytes for each in own], label=role, lw=1)
    axes.set(xlabel="simulated hours", ylabel="resident memory (MB)", ylim=(0, None))
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(out / "memory.png", dpi=120)
    pyplot.close(figure)


def _epsilon(entries: list[LedgerEntry], delta: float) -> float:
    return epsilon([entry.mechanism for entry in entries], delta)


def _is_settled(demo: Demo, site: str) -> bool:
    return all(entry.status != "open" for entry in Ledger.open(demo.state(site) / "ledger.sqlite").entries())


if __name__ == "__main__":
    main()
