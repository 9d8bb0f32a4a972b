"""HTTP routes, one file for each family: they translate between the wire and the lifecycle, and do nothing else."""
