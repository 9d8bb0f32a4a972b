from tests.unit.service.conftest import engine, service_with

__all__ = ["engine", "service_with"]
