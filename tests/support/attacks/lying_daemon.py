"""A daemon that was taken over, as its clients meet it: it returns what it likes, over real gRPC and TLS."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import grpc

from otahsm.client import Client, ClientTls
from otahsm.quickstart.certificates import FileCa
from otahsm.v1 import authority_pb2, authority_pb2_grpc, issuance_pb2, issuance_pb2_grpc

# None to end the stream without a result.
Answer = Callable[[issuance_pb2.CertificateRequest], issuance_pb2.IssuedCertificate | None]


class LyingDaemon(issuance_pb2_grpc.IssuanceServiceServicer, authority_pb2_grpc.AuthorityServiceServicer):
    """A server that anybody with a certificate of its CA may ask.

    Attributes:
        answer: makes the certificate for a request.
        anchors: the fleet roots that it names, in DER.
        target: its address.
        tls: how to connect.
    """

    def __init__(self, folder: Path, answer: Answer, anchors: Sequence[bytes]) -> None:
        self.answer, self.anchors, self.target = answer, list(anchors), ""
        self._folder = folder
        self.tls = ClientTls(folder / "ca.pem", folder / "client.pem", folder / "client.key")

    def client(self, *trust_anchors: bytes) -> Client:
        return Client(self.target, self.tls, patience=0, trust_anchors=trust_anchors)

    async def IssueCertificates(  # noqa: N802 - the name is the wire's
        self, requests: AsyncIterator[Any], _: object
    ) -> AsyncIterator[issuance_pb2.IssueCertificatesResponse]:
        async for message in requests:
            results = [
                issuance_pb2.IssueResult(request_id=request.request_id, certificate=certificate)
                for request in message.requests
                if (certificate := self.answer(request)) is not None
            ]
            yield issuance_pb2.IssueCertificatesResponse(results=results)

    async def IssueCertificate(self, _: object, __: object) -> NoReturn:  # noqa: N802
        raise NotImplementedError

    async def ListProfiles(self, _: object, __: object) -> NoReturn:  # noqa: N802
        raise NotImplementedError

    async def GetAuthority(self, _: object, __: object) -> authority_pb2.GetAuthorityResponse:  # noqa: N802
        first, *others = self.anchors
        authority = authority_pb2.Authority(trust_anchor=first, other_trust_anchors=others)
        return authority_pb2.GetAuthorityResponse(authority=authority)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[LyingDaemon]:
        """Serve until the block ends."""
        operators = FileCa.create("operators")
        operators.write_certificate(self.tls.ca)
        operators.issue_client(self.tls.certificate, self.tls.key, "client")
        own = self._folder / "server.pem", self._folder / "server.key"
        operators.issue_server(*own, "localhost")
        server = grpc.aio.server()
        issuance_pb2_grpc.add_IssuanceServiceServicer_to_server(self, server)
        authority_pb2_grpc.add_AuthorityServiceServicer_to_server(self, server)
        credentials = grpc.ssl_server_credentials(
            [(own[1].read_bytes(), own[0].read_bytes())], self.tls.ca.read_bytes(), require_client_auth=True
        )
        self.target = f"localhost:{server.add_secure_port('localhost:0', credentials)}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
