"""GKD and its baselines (Agarwal et al. 2024) on four tasks: cells, runner, page."""
