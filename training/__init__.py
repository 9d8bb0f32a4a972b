"""Training: it makes an artifact from labelled examples. It imports `classifier` and never `service`."""
