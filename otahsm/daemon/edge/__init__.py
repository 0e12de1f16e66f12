"""The edge of the daemon: TLS, trust, limits, the boundary of every call, and gRPC's server."""

from otahsm.daemon.edge import limits
from otahsm.daemon.edge.boundary import CallBoundary, internal_error
from otahsm.daemon.edge.client_crls import ClientCrls, client_crls_of
from otahsm.daemon.edge.health import Health
from otahsm.daemon.edge.methods import METHODS, SERVICES, Method
from otahsm.daemon.edge.reloading import Reloading
from otahsm.daemon.edge.server import add_port, new_server
from otahsm.daemon.edge.tls import Context, caller_of, read_caller

__all__ = [
    "METHODS",
    "SERVICES",
    "CallBoundary",
    "ClientCrls",
    "Context",
    "Health",
    "Method",
    "Reloading",
    "add_port",
    "caller_of",
    "client_crls_of",
    "internal_error",
    "limits",
    "new_server",
    "read_caller",
]
