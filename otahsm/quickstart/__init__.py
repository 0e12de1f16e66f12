"""Makes a folder in which everything runs on one machine: token, fleet root, operators, configuration."""

from otahsm.quickstart.folder import create

__all__ = ["create"]
