"""The run folder, checkpoints, charts, pictures, report, comparison."""
