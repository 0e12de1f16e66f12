"""The gRPC daemon: services, TLS, health, lifecycle. It contains no business logic."""

from otahsm.daemon.app import serve

__all__ = ["serve"]
