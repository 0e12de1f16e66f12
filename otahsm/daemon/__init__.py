"""The gRPC daemon: services, TLS, health, lifecycle. Thin; it has no rules of its own."""

from otahsm.daemon.app import Daemon, serve

__all__ = ["Daemon", "serve"]
