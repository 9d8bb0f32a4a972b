"""HTTP routes, one file a family: they translate between the wire and the lifecycle, and do nothing else."""
