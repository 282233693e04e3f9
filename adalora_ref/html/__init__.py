"""Report pages: a verdict or a run as one HTML file that needs nothing else."""
