"""Batches: orders for a number of certificates, which the daemon enforces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.client.calls import Calls, Service
from otahsm.client.moments import moment_of
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import batch_pb2 as pb
from otahsm.v1 import batch_pb2_grpc

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class IdScheme:
    """How the device ids of a batch are chosen.

    Attributes:
        kind: "uuid4", "uuid5", "template" or "list".
        value: the namespace for "uuid5" or the template for "template".
        first: the first number for "template".
        digest: SHA-256 of the list of devices, in hexadecimal; empty if there is none.
        values: values that are the same for all devices.
    """

    kind: str
    value: str = ""
    first: int = 0
    digest: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch and its progress. Times are in UTC.

    Attributes:
        name: 1 to 64 letters, digits, dots, underscores and hyphens.
        device_count: the maximum number of certificates.
        profile: the profile of its certificates; empty in a new batch for the daemon's default profile.
        deadline: from this time on, no certificates are issued; None for no deadline.
        clients: the clients that may issue in it, such as "cn:line-3"; empty for all.
        remaining: how many more certificates can be requested now.
    """

    name: str
    device_count: int
    scheme: IdScheme
    profile: str = ""
    deadline: datetime | None = None
    clients: tuple[str, ...] = ()
    created_by: str = ""
    created_at: datetime | None = None
    closed_at: datetime | None = None
    issued: int = 0
    remaining: int = 0
    first_serial: SerialNumber | None = None
    last_serial: SerialNumber | None = None
    first_issued_at: datetime | None = None
    last_issued_at: datetime | None = None

    def message(self) -> pb.Batch:
        """Return the fields that a client sets, as a message."""
        scheme = self.scheme
        message = pb.Batch(
            name=self.name,
            profile=self.profile,
            device_count=self.device_count,
            id_scheme=pb.IdScheme(
                kind=scheme.kind,
                value=scheme.value,
                first_number=scheme.first,
                list_sha256=bytes.fromhex(scheme.digest),
                values=scheme.values,
            ),
            clients=self.clients,
        )
        if self.deadline is not None:
            message.deadline_time.FromDatetime(self.deadline)
        return message

    @classmethod
    def from_message(cls, message: pb.Batch) -> Batch:
        """Return the value of a message."""
        scheme = message.id_scheme
        return cls(
            name=message.name,
            device_count=message.device_count,
            scheme=IdScheme(
                scheme.kind, scheme.value, scheme.first_number, scheme.list_sha256.hex(), dict(scheme.values)
            ),
            profile=message.profile,
            deadline=_moment(message, "deadline_time"),
            clients=tuple(message.clients),
            created_by=message.creator,
            created_at=_moment(message, "create_time"),
            closed_at=_moment(message, "close_time"),
            issued=message.issued_count,
            remaining=message.remaining_count,
            first_serial=_serial(message.first_serial_number),
            last_serial=_serial(message.last_serial_number),
            first_issued_at=_moment(message, "first_issue_time"),
            last_issued_at=_moment(message, "last_issue_time"),
        )


class BatchClient:
    """`Client.batches`: creates, reads and closes batches.

    Every method raises OtahsmError: the daemon can't be reached or refuses.
    """

    def __init__(self, calls: Calls) -> None:
        self._service = Service(calls, batch_pb2_grpc.BatchServiceStub)

    async def create(self, batch: Batch) -> Batch:
        """Create a batch; if one with the same terms exists, return it.

        Raises:
            RequestRefusedError: a field is invalid.
            ConflictError: the name was used for another batch.
        """
        request = pb.CreateBatchRequest(batch=batch.message())
        return Batch.from_message((await self._service.call(lambda stub: stub.CreateBatch, request)).batch)

    async def get(self, name: str) -> Batch:
        """Return a batch. Raises NotFoundError: it does not exist."""
        request = pb.GetBatchRequest(name=name)
        return Batch.from_message((await self._service.call(lambda stub: stub.GetBatch, request)).batch)

    async def close(self, name: str) -> Batch:
        """Close a batch permanently: nothing more is issued in it. Raises NotFoundError."""
        request = pb.CloseBatchRequest(name=name)
        return Batch.from_message((await self._service.call(lambda stub: stub.CloseBatch, request)).batch)

    async def everything(self, *, newest_first: bool = False) -> AsyncGenerator[Batch, None]:
        """Yield all batches, in order of creation or in reverse."""
        request = pb.ListBatchesRequest(page_size=_PAGE, newest_first=newest_first)
        while True:
            response = await self._service.call(lambda stub: stub.ListBatches, request)
            for message in response.batches:
                yield Batch.from_message(message)
            request.page_token = response.next_page_token
            if not request.page_token:
                return


def _serial(octets: bytes) -> SerialNumber | None:
    return SerialNumber.from_key(octets) if octets else None


def _moment(message: pb.Batch, name: str) -> datetime | None:
    time: Timestamp = getattr(message, name)
    return moment_of(time) if message.HasField(name) else None  # type: ignore[arg-type]
