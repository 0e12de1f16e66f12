"""A daemon that was taken over, as its clients meet it: it returns what it likes, over real gRPC and TLS."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from otahsm.client import Client, ClientTls
from otahsm.daemon.edge import METHODS
from otahsm.quickstart.certificates import FileCa
from otahsm.v1 import authority_pb2, batch_pb2, issuance_pb2, ledger_pb2

# None to end the stream without a result.
Answer = Callable[[issuance_pb2.CertificateRequest], issuance_pb2.IssuedCertificate | None]


class LyingDaemon(grpc.GenericRpcHandler):
    """A server that anybody with a certificate of its CA may ask.

    Attributes:
        answer: makes the certificate for a request.
        anchors: the fleet roots that it names, in DER.
        entries: what its ledger has.
        batch: its batch.
        target: its address.
        tls: how to connect.
    """

    def __init__(self, folder: Path, answer: Answer, anchors: Sequence[bytes]) -> None:
        self.answer, self.anchors, self.target = answer, list(anchors), ""
        self._folder = folder
        self.entries: Sequence[ledger_pb2.Certificate] = ()
        self.batch = batch_pb2.Batch()
        self.tls = ClientTls(folder / "ca.pem", folder / "client.pem", folder / "client.key")

    def client(self, *trust_anchors: bytes) -> Client:
        return Client(self.target, self.tls, patience=0, trust_anchors=trust_anchors)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what answers a call: the method of this class with its name."""
        method = METHODS.get(handler_call_details.method)
        answer = method and getattr(self, method.name, None)
        if method is None or answer is None:
            return None
        codecs = method.request_type.FromString, method.response_type.SerializeToString
        if method.takes_stream:
            return grpc.stream_stream_rpc_method_handler(answer, *codecs)
        return grpc.unary_unary_rpc_method_handler(answer, *codecs)

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

    async def ListProfiles(self, _: object, __: object) -> authority_pb2.ListProfilesResponse:  # noqa: N802
        return authority_pb2.ListProfilesResponse(profiles=[authority_pb2.Profile(is_default=True)])

    async def GetBatch(self, _: object, __: object) -> batch_pb2.GetBatchResponse:  # noqa: N802
        return batch_pb2.GetBatchResponse(batch=self.batch)

    async def ListCertificates(  # noqa: N802
        self, _: object, __: object
    ) -> ledger_pb2.ListCertificatesResponse:
        return ledger_pb2.ListCertificatesResponse(certificates=self.entries)

    async def GetCertificate(self, _: object, __: object) -> ledger_pb2.GetCertificateResponse:  # noqa: N802
        return ledger_pb2.GetCertificateResponse()

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
        server.add_generic_rpc_handlers((self,))
        credentials = grpc.ssl_server_credentials(
            [(own[1].read_bytes(), own[0].read_bytes())], self.tls.ca.read_bytes(), require_client_auth=True
        )
        self.target = f"localhost:{server.add_secure_port('localhost:0', credentials)}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
