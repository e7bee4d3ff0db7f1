"""The coordinator's side: campaign, strategy, checkpoint, and the Flower ServerApp."""
