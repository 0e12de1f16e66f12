"""The gRPC daemon: services, TLS, health, lifecycle. Thin; it has no rules of its own."""

from otahsm.daemon.app import serve

__all__ = ["serve"]
