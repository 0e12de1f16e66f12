"""What the table of methods says of each, against a daemon that does it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

import grpc
import pytest

from otahsm.client import Batch, IdScheme, NotRevoked, ToRevoke
from otahsm.client.connection import open_channel
from otahsm.daemon.edge import METHODS
from otahsm.errors import HeldError
from otahsm.pki.crls.building import Reason
from otahsm.pki.serial import SerialNumber

from support.devices import new_request
from support.harness import Fleet, running
from support.operators import new_client

KINDS = {5: "certificate", 3: "revocation"}
OURS = "/otahsm.v1."


class Calls:
    """Makes calls by the table, and remembers which."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.made: list[str] = []

    async def __call__(self, name: str, /, **fields: Any) -> Any:
        method = METHODS[OURS + name]
        self.made.append(method.path)
        make: Any = self._channel.stream_stream if method.gives_stream else self._channel.unary_unary
        call = make(
            method.path,
            request_serializer=method.request_type.SerializeToString,
            response_deserializer=method.response_type.FromString,
        )
        request = method.request_type(**fields)
        if not method.gives_stream:
            return await call(request, timeout=60)
        stream = call(timeout=60)
        await stream.write(request)
        await stream.done_writing()
        return [response async for response in stream]


async def control_access(call: Calls) -> None:
    """Make the calls about access, and decide the two acts that are held."""
    await call(
        "AccessService/DenyClient",
        client={"subject": "cn:line-9", "reason": "stolen"},
        allow_unknown_name=True,
    )
    await call("AccessService/ListDeniedClients")
    await call("AccessService/AllowClient", subject="cn:line-9")
    revocation, order = (await call("ApprovalService/ListHeldActs")).acts
    await call("ApprovalService/ConfirmHeldAct", id=revocation.id, digest=revocation.digest)
    await call("ApprovalService/RejectHeldAct", id=order.id)
    await call("AccessService/GetQuotas")
    await call("AccessService/ResetQuota", policy_client="strict")


async def test_a_call_of_each_method_leaves_in_the_log_what_the_table_says(fleet: Fleet) -> None:
    one, other = new_request(), new_request()
    strict = new_client(fleet, "strict", 'roles = ["operator"]\nacts_per_day = 0')
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with open_channel(daemon.address, fleet.tls) as channel:
            call = Calls(channel)
            issued = await call("IssuanceService/IssueCertificate", request={"csr": one.csr})
            serial = issued.certificate.serial_number
            (streamed,) = await call(
                "IssuanceService/IssueCertificates", requests=[{"csr": other.csr, "request_id": "r"}]
            )
            assert streamed.results[0].HasField("certificate")
            await call("AuthorityService/GetAuthority")
            await call("AuthorityService/ListProfiles")
            await call("LedgerService/GetCertificate", serial_number=serial)
            await call("LedgerService/ListCertificates")
            await call("LedgerService/GetLedgerStats")
            await call("TransparencyService/GetCheckpoint", make_new=True)
            await call("TransparencyService/GetInclusionProof", serial_number=serial)
            await call("TransparencyService/GetConsistencyProof", old_size=1)
            async with daemon.client(tls=strict) as other_operator:
                target = ToRevoke(serial=SerialNumber.from_octets(serial))
                revoking = other_operator.revocation.revoke([target] * 2, Reason.SUPERSEDED)
                held = [each async for each in revoking]
                with pytest.raises(HeldError):
                    await other_operator.batches.create(Batch("held", 1, IdScheme("uuid4")))
            assert [type(each.error) for each in held if isinstance(each, NotRevoked)] == [HeldError] * 2
            revoked = await call("RevocationService/RevokeCertificates", targets=[{"serial_number": serial}])
            assert revoked.results[0].certificates
            await call("RevocationService/GetCrl")
            await call("DeviceService/ResetDevice", device_id=streamed.results[0].certificate.device_id)
            batch = {"name": "b", "device_count": 1, "id_scheme": {"kind": "uuid4"}}
            await call("BatchService/CreateBatch", batch=batch)
            await call("BatchService/GetBatch", name="b")
            await call("BatchService/ListBatches")
            await call("BatchService/CloseBatch", name="b")
            await control_access(call)
            await call("AuditService/ListAuditEvents")
        assert daemon.stop() == 0
    ours = {path: method for path, method in METHODS.items() if path.startswith(OURS)}
    assert sorted(call.made) == sorted(ours)
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as ledger:
        entries = ledger.execute("SELECT kind FROM leaves UNION ALL SELECT kind FROM unlogged").fetchall()
        events = ledger.execute("SELECT name FROM events").fetchall()
    left = Counter(KINDS[kind] for (kind,) in entries if kind in KINDS) + Counter(name for (name,) in events)
    told = Counter(method.leaves for method in ours.values() if method.leaves)
    assert {name: left[name] for name in told} == told
