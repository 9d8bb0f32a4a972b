"""Labelled examples in, artifact out. Imports `classifier`, never `service`."""
