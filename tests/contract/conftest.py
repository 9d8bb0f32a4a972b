"""The service over the fake engine, as tests/service has it."""

from tests.unit.service.conftest import engine, service_with

__all__ = ["engine", "service_with"]
