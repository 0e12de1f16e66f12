"""`grpc.health.v1.Health` for the services in the table of methods."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2

from otahsm.daemon.edge.methods import SERVICES
from otahsm.daemon.edge.tls import Context

_ALL: Final = ""  # the daemon as a whole
_SIGNING: Final = (_ALL, *(service.name for service in SERVICES if service.needs_signer))
_OTHERS: Final = tuple(service.name for service in SERVICES if service.is_ours and not service.needs_signer)

_Status = health_pb2.HealthCheckResponse


class Health(health.aio.HealthServicer):
    """Tracks which services can serve."""

    async def start(self) -> None:
        """Set the services that need no signer to SERVING, and the others to NOT_SERVING."""
        for name in _OTHERS:
            await self.set(name, _Status.SERVING)
        await self.set_signing(possible=False)

    async def set_signing(self, *, possible: bool) -> None:
        """Set the status of the services that need a signer."""
        for name in _SIGNING:
            await self.set(name, _Status.SERVING if possible else _Status.NOT_SERVING)

    async def List(  # noqa: N802 - the name is the wire's; upstream's class has no such method
        self, request: Message, context: Context
    ) -> Message:
        """Return the status of each service."""
        questions = [health_pb2.HealthCheckRequest(service=name) for name in (*_SIGNING, *_OTHERS)]
        statuses = {question.service: await self.Check(question, context) for question in questions}
        response: Message = health_pb2.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined] # stale types
        return response
