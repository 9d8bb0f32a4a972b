"""HTTP routes, one file a family: they translate between the wire and the runtime, and do nothing else."""
