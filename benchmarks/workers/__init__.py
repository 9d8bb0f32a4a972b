"""One runtime a process, each in the environment that it needs; `protocol` says how they talk."""
