"""The HTTP service. Except for types, only `service.model` imports `classifier`; nothing here imports `training`."""

__version__ = "0.1.0"
