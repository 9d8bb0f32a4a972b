"""HTTP in, prediction out. Imports `classifier` in one file only, `torch_engine.py`, and never `training`."""

__version__ = "0.1.0"
