"""The Flower ServerApp: runs a campaign on whatever grid Flower provides."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the campaign that the run-config describes; its folder is ``run.folder``, or one named after the Flower run."""
    from core.config import ExperimentConfig, with_overrides
    from core.learning.training import use_threads
    from server.campaign import Campaign
    from server.run_folder import RunFolder
    from server.strategy import FlowerFederation
    from server.watching import LogObserver

    config = ExperimentConfig.from_run_config(context.run_config)
    if not config.run.folder:
        path = Path(config.run.out) / f"flower-{context.run_id}"
        config = with_overrides(config, [f"run.folder={path}"])
    use_threads(config.run.threads)
    existing = (Path(config.run.folder) / "config.toml").is_file()
    folder = RunFolder(Path(config.run.folder)) if existing else RunFolder.create(config)
    try:
        federation = FlowerFederation(grid, config.federation.sites, config.federation.strategy)
        Campaign(config, federation, folder, LogObserver()).run()
    except Exception as error:
        folder.update_record(error=str(error))
        folder.finish("failed")
        raise
