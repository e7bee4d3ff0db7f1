"""The Flower ServerApp: runs a campaign on whatever grid Flower provides."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

if TYPE_CHECKING:
    from server.run_folder import RunFolder

LOCK_SECONDS = 60.0
"""For the process of an earlier attempt to end; a SuperLink that was killed leaves one behind."""

MEETING_SECONDS = 120.0
"""That sites have at least to connect at the beginning: after a SuperLink was away they take up to half a minute."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the campaign that the run-config describes; its folder is ``run.folder``, or one named after the Flower run."""
    from core.config import ExperimentConfig, with_overrides
    from core.learning.training import use_threads
    from core.report.trackers import tracked
    from server.campaign import Campaign
    from server.run_folder import RunFolder
    from server.strategy import FlowerFederation, Pacing
    from server.watching import FolderObserver

    config = ExperimentConfig.from_run_config(context.run_config)
    if not config.run.folder:
        path = Path(config.run.out) / f"flower-{context.run_id}"
        config = with_overrides(config, [f"run.folder={path}"])
    use_threads(config.run.threads)
    existing = (Path(config.run.folder) / "config.toml").is_file()
    folder = RunFolder(Path(config.run.folder)) if existing else RunFolder.create(config)
    observer = FolderObserver(folder)
    with _alone(folder):
        folder.update_record(status="running", finished=None, error=None, began=str(context.run_id))
        try:
            pacing = Pacing.of(config.federation)
            federation = FlowerFederation(
                grid,
                config.federation.participants,
                max(pacing.grace_seconds, MEETING_SECONDS),
                pacing=pacing,
                note=observer.note,
            )
            with tracked(observer, config.run.trackers, folder.path, config.to_run_config()) as watching:
                watching.finished(Campaign(config, federation, folder, watching).run())
        except BaseException as error:
            # Flower ends an app by an interrupt when its run was stopped or its SuperLink is another one.
            interrupted = not isinstance(error, Exception)
            folder.update_record(error=None if interrupted else str(error))
            folder.finish("interrupted" if interrupted else "failed")
            raise


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Hold the run's lock, once whoever has it is gone."""
    from core.errors import ConfigError
    from server.watching import APP_LOCK

    deadline = time.monotonic() + LOCK_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(folder.locked(APP_LOCK))
                break
            except ConfigError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield
