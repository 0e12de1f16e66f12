"""A daemon that answers every call with an error: the edge of the real one, with nothing behind it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from otahsm.client import ClientTls
from otahsm.daemon.edge.boundary import abort
from otahsm.errors import OtahsmError
from otahsm.errors.status import to_status
from otahsm.quickstart.certificates import FileCa
from otahsm.v1 import issuance_pb2, revocation_pb2


@dataclass
class RefusingDaemon(grpc.GenericRpcHandler):
    """Listens with mutual TLS.

    Attributes:
        error: what every call ends with.
        in_items: calls with many items end well, and every item has the error.
    """

    address: str
    tls: ClientTls
    error: OtahsmError
    in_items: bool = False

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Self]:
        """Run one until the block ends; its TLS files go into a folder."""
        ca = FileCa.create("operator CA")
        ca.write_certificate(folder / "ca.pem")
        ca.issue_server(folder / "server.pem", folder / "server.key", "daemon")
        ca.issue_client(folder / "client.pem", folder / "client.key", "line")
        tls = ClientTls(folder / "ca.pem", folder / "client.pem", folder / "client.key")
        server = grpc.aio.server()
        credentials = grpc.ssl_server_credentials(
            [((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())],
            tls.ca.read_bytes(),
            require_client_auth=True,
        )
        daemon = cls(f"localhost:{server.add_secure_port('localhost:0', credentials)}", tls, OtahsmError(""))
        server.add_generic_rpc_handlers((daemon,))
        await server.start()
        try:
            yield daemon
        finally:
            await server.stop(None)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what answers a call; of health nothing is known, which lets a client call at once."""
        match handler_call_details.method:
            case str() as method if not method.startswith("/otahsm.v1."):
                return None
            case "/otahsm.v1.IssuanceService/IssueCertificates":
                return grpc.stream_stream_rpc_method_handler(
                    self._issue,
                    issuance_pb2.IssueCertificatesRequest.FromString,
                    issuance_pb2.IssueCertificatesResponse.SerializeToString,
                )
            case "/otahsm.v1.RevocationService/RevokeCertificates":
                return grpc.unary_unary_rpc_method_handler(
                    self._revoke,
                    revocation_pb2.RevokeCertificatesRequest.FromString,
                    revocation_pb2.RevokeCertificatesResponse.SerializeToString,
                )
        return grpc.unary_unary_rpc_method_handler(self._refuse)

    async def _refuse(self, _: bytes, context: Any) -> bytes:
        await abort(context, self.error)

    async def _issue(
        self, requests: AsyncIterator[issuance_pb2.IssueCertificatesRequest], context: Any
    ) -> AsyncIterator[issuance_pb2.IssueCertificatesResponse]:
        async for message in requests:
            if not self.in_items:
                await abort(context, self.error)
            yield issuance_pb2.IssueCertificatesResponse(
                results=[
                    issuance_pb2.IssueResult(request_id=item.request_id, error=to_status(self.error))
                    for item in message.requests
                ]
            )

    async def _revoke(
        self, request: revocation_pb2.RevokeCertificatesRequest, context: Any
    ) -> revocation_pb2.RevokeCertificatesResponse:
        if not self.in_items:
            await abort(context, self.error)
        results = [revocation_pb2.RevocationResult(error=to_status(self.error)) for _ in request.targets]
        return revocation_pb2.RevokeCertificatesResponse(results=results)
