"""A campaign over a SuperLink, TLS, node keys and vaults trains the model that the loopback engine trains."""

import json
from functools import partial

import numpy as np
import pytest
from tiny_campaigns import Watcher, tiny
from tiny_vaults import short_folder, site_toml

from core.synthetic.hospitals import simulated_hospitals
from server.flower_commands import free_port
from server.run_folder import RunFolder
from simulations.deploy_demo import Demo, is_connected, is_up, wait
from simulations.engine import run_loopback

pytestmark = [pytest.mark.deployment, pytest.mark.slow]


def test_an_undisturbed_deployed_campaign_ends_with_the_model_of_the_loopback_engine(tmp_path):
    both = simulated_hospitals(hospitals=2, patients=25, seed=0)
    both.write(tmp_path / "both")
    names = sorted(both.records["site"].unique())
    config = tiny(
        tmp_path / "runs",
        f"data.path={tmp_path / 'both'}",
        "federation.partition=site-column",
        "finetune.rounds=3",
        "run.bootstrap=0",
    )
    loopback = RunFolder.create(config)
    there = run_loopback(config, loopback, Watcher())
    with short_folder() as folder:
        demo = Demo(folder / "demo", lambda line: None, free_port())
        demo.out.mkdir()
        try:
            here = deployed(demo, config, names, both)
            tensors = RunFolder(demo.out / "run").load_checkpoint().tensors
        finally:
            demo.end()
    expected = loopback.load_checkpoint().tensors
    assert set(tensors) == set(expected)
    furthest = max(np.abs(tensors[name] - expected[name]).max() for name in expected)
    print(f"largest difference of a weight: {furthest:g}")
    assert furthest <= 1e-5
    assert max(np.abs(values).max() for values in expected.values()) > 0.1
    assert here["classification"]["macro"] == pytest.approx(there["classification"]["macro"], abs=1e-3, nan_ok=True)


def deployed(demo, config, names, both):
    demo.run("cardiofed-server", "init", demo.home, "--port", demo.port)
    demo.start("coordinator", "cardiofed-server", "up", demo.home, "--host", "127.0.0.1")
    wait("the SuperLink to listen", partial(is_up, demo))
    sites = [f"site-{name}" for name in names]
    for name, site in zip(names, sites, strict=True):
        state, records = demo.state(site), demo.out / f"records-{site}"
        both.select(both.records["site"].to_numpy() == name).write(records)
        address = f"127.0.0.1:{demo.port}"
        demo.run(
            *("cardiofed-site", "init", state, "--yes", "--name", site, "--data", records, "--device", "cpu"),
            *("--coordinator", address, "--ca", demo.home / "ca.crt"),
        )
        site_toml(
            state,
            site={"name": site},
            data={"path": str(records), "train_folds": [*range(1, 9)], "test_folds": [9, 10]},
            cohort={"min_patients": 2},
            coordinator={"address": address},
        )
        demo.run("cardiofed-server", "sites", demo.home, "add", state / "node.pub", site)
        demo.start(site, "cardiofed-site", "serve", state, "--no-check")
    for site in sites:
        wait(f"{site} to be connected", partial(is_connected, demo, site))
    path, run = demo.out / "tiny.toml", demo.out / "run"
    path.write_text("\n".join(line for line in config.to_toml().splitlines() if not line.startswith("sites = ")))
    demo.run("cardiofed-server", "run", demo.home, path, "--out", run)
    return json.loads((run / "results.json").read_text())
