"""Messages of the wire, as the daemon reads them: from anybody who has a client certificate.

What passes is asked of a real ledger, an empty one: so whatever can't be asked of it must have been refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

from otahsm.access import SUBJECTS, Policy
from otahsm.authority import AUTHORITIES, COMPLETE, START, Caller, DeviceKey, Filter, Scheme, Status
from otahsm.authority.crls import _scope
from otahsm.authority.denied_clients import check_subject
from otahsm.config import CrlConfig, LedgerConfig
from otahsm.config.subject import parse_subject
from otahsm.daemon.wire import read_message, request_of
from otahsm.daemon.wire.access import event_filter_of
from otahsm.daemon.wire.batches import new_batch_of
from otahsm.daemon.wire.ledger import filter_of, key_of, time_of
from otahsm.daemon.wire.paging import numbered_page, page_start, page_token
from otahsm.daemon.wire.revocation import crl_name_of, revocation_of
from otahsm.errors import NotFoundError, RequestRefusedError
from otahsm.errors.status import to_status
from otahsm.issuance.batches import Batches, _check_name
from otahsm.issuance.request_ids import own_name
from otahsm.ledger import Ledger, LedgerReader, MacKeys, RevocationRequest, database_of
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.pki.csr import check_csr
from otahsm.pki.profile import Profile
from otahsm.pki.subject import SubjectTemplate
from otahsm.preparation.codec import Task, decode_tasks, encode_tasks
from otahsm.revocation.revoking import _refusal
from otahsm.system.clock import utc_now
from otahsm.v1 import (
    access_pb2,
    audit_pb2,
    batch_pb2,
    device_pb2,
    issuance_pb2,
    ledger_pb2,
    revocation_pb2,
    transparency_pb2,
)

from fuzz.draws import Draws
from fuzz.places import folder

CALLER: Final = Caller("dns:line-1", bytes(32), bytes(32))
_PROFILE: Final = Profile(subject=parse_subject(("O=Acme", "OU={plant}")))
_SUBJECT: Final = SubjectTemplate(_PROFILE.subject)
_CRLS: Final = CrlConfig(url="http://crl.example.com/fleet-{shard}.crl", shards=3, directory=Path("/crl"))


def order(data: bytes) -> None:
    """Read requests for certificates; the first octet says whether it is one, or a message of a stream."""
    kind = data[0] if data else 0
    if kind % 2:
        _read(issuance_pb2.IssueCertificateRequest, data[1:], lambda message: _order(message.request))
    else:
        stream = issuance_pb2.IssueCertificatesRequest
        _read(stream, data[1:], _orders)


def question(data: bytes) -> None:
    """Read any other request; the first octet says which."""
    message_type, ask = _QUESTIONS[(data[0] if data else 0) % len(_QUESTIONS)]
    _read(message_type, data[1:], ask)


def page_tokens(data: bytes) -> None:
    """Write page tokens, and read them and others."""
    draws = Draws(data)
    wanted = _filter(draws)
    after, other = draws.octets(len(START)), _filter(draws)
    token = page_token(wanted, after)
    assert page_start(wanted, token) == after
    if other != wanted:
        assert _refused(other, token)
    place, character = draws.number(len(token)), draws.one_of("Aa_-0= \n\u0660")
    changed = token[:place] + character + token[place + 1 :]
    assert changed == token or _refused(wanted, changed)
    text = draws.rest().decode(errors="replace")
    # One may be made up: it is no secret. But it says where to begin in one way alone.
    assert not text or _refused(wanted, text) or page_token(wanted, page_start(wanted, text)) == text
    with contextlib.suppress(RequestRefusedError):
        row, size = numbered_page(text, place)
        assert 0 <= row < 10**18
        assert 1 <= size <= 1000


def _read(message_type: Any, data: bytes, ask: Callable[[Any], object]) -> None:
    try:
        ask(read_message(message_type, data))
    except (RequestRefusedError, NotFoundError) as error:
        to_status(error).SerializeToString()


def _order(request: issuance_pb2.CertificateRequest) -> None:
    read = request_of(request, CALLER)
    if read.batch:
        _check_name(read.batch)
    read.check()
    assert own_name(read) in {"", read.request_id}
    task = Task(read.profile, read.device_id, read.csr)
    assert list(decode_tasks(encode_tasks([task]))) == [task]
    checked = check_csr(read.csr, _PROFILE, read.device_id)
    assert read.device_id in {"", checked.device_id}
    _SUBJECT.fill(read.attributes)


def _orders(message: issuance_pb2.IssueCertificatesRequest) -> None:
    for request in message.requests[:256]:
        _order(request)


def _list(request: ledger_pb2.ListCertificatesRequest) -> None:
    wanted = filter_of(request)
    reader = _ledger()
    assert reader.page(wanted, page_start(wanted, request.page_token), size=10).records == []
    assert page_start(wanted, page_token(wanted, START)) == START


def _get(request: ledger_pb2.GetCertificateRequest) -> None:
    key = key_of(request)
    if isinstance(key, DeviceKey):
        assert _ledger().by_device(*key) is None
    else:
        assert _ledger().by_serial(key) is None


def _count(request: ledger_pb2.GetLedgerStatsRequest) -> None:
    assert not _ledger().count(time_of(request)).counts


def _revoke(request: revocation_pb2.RevokeCertificatesRequest) -> None:
    for target in request.targets:
        read = revocation_of(target)
        if error := _refusal(read):
            raise error
        assert isinstance(read, RevocationRequest)
        serial = read.serial
        assert (serial or 0) == int.from_bytes(target.serial_number, "big")


def _crl(request: revocation_pb2.GetCrlRequest) -> None:
    places = _CRLS.location.urls
    assert _scope(crl_name_of(request), _CRLS) in {*places, COMPLETE, AUTHORITIES}


def _create(request: batch_pb2.CreateBatchRequest) -> None:
    read = new_batch_of(request.batch)
    terms = _batches()._terms(read)
    assert Scheme.read(terms.scheme) == read.scheme
    assert 1 <= terms.device_count <= 100_000_000
    assert terms.deadline is None or terms.deadline.bit_length() < 64


def _batch(request: batch_pb2.GetBatchRequest) -> None:
    _check_name(request.name)
    assert _ledger().batch(request.name) is None


def _list_batches(request: batch_pb2.ListBatchesRequest) -> None:
    after, size = numbered_page(request.page_token, request.page_size)
    assert 1 <= size <= 1000
    assert _ledger().batches(after, size, newest_first=request.newest_first) == []


def _list_events(request: audit_pb2.ListAuditEventsRequest) -> None:
    after, size = numbered_page(request.page_token, request.page_size)
    page = _ledger().events(event_filter_of(request), after, size)
    assert page.events == []
    assert page.at_end


def _deny(request: access_pb2.DenyClientRequest) -> None:
    check_subject(request.client.subject, request.client.reason)
    subject = request.client.subject
    assert subject.startswith(SUBJECTS)
    assert subject.isprintable()
    if subject in Policy(()).subjects_of(CALLER):
        assert subject in {CALLER.identity, f"spki:{'0' * 64}", f"sha256:{'0' * 64}"}


def _decode_only(message: Message) -> None:
    """What else is asked needs a token or a ledger with something in it."""
    assert type(message).FromString(message.SerializeToString()) == message


_QUESTIONS: Final[tuple[tuple[Any, Callable[[Any], object]], ...]] = (
    (ledger_pb2.ListCertificatesRequest, _list),
    (ledger_pb2.GetCertificateRequest, _get),
    (ledger_pb2.GetLedgerStatsRequest, _count),
    (revocation_pb2.RevokeCertificatesRequest, _revoke),
    (revocation_pb2.GetCrlRequest, _crl),
    (batch_pb2.CreateBatchRequest, _create),
    (batch_pb2.GetBatchRequest, _batch),
    (batch_pb2.ListBatchesRequest, _list_batches),
    (device_pb2.ResetDeviceRequest, _decode_only),
    (transparency_pb2.GetInclusionProofRequest, _decode_only),
    (transparency_pb2.GetConsistencyProofRequest, _decode_only),
    (audit_pb2.ListAuditEventsRequest, _list_events),
    (access_pb2.DenyClientRequest, _deny),
    (access_pb2.GetQuotasRequest, _decode_only),
    (access_pb2.ResetQuotaRequest, _decode_only),
)


def _filter(draws: Draws) -> Filter:
    return Filter(
        draws.text(20),
        draws.text(5),
        draws.text(5),
        draws.one_of((None, *Status)),
        draws.one_of((None, draws.number(2**48))),
        draws.one_of((None, draws.number(2**48))),
        draws.text(5),
        newest_first=draws.one_of((False, True)),
    )


def _refused(wanted: Filter, token: str) -> bool:
    try:
        page_start(wanted, token)
    except RequestRefusedError:
        return True
    return False


_KEYS = MacKeys(bytes(32))


@cache
def _config() -> LedgerConfig:
    config = LedgerConfig(path=folder() / "ledger.sqlite3")

    async def make() -> None:
        ledger = Ledger(database_of(config), _KEYS, [bytes(20)])
        await ledger.open()
        await ledger.close()

    asyncio.run(make())
    return config


@cache
def _ledger() -> LedgerReader:
    return LedgerReader(_config())


@cache
def _batches() -> Batches:
    config = _config()
    return Batches(
        Ledger(database_of(config), _KEYS, [bytes(20)]),
        LedgerQueries(config),
        {"ota-connect"},
        "ota-connect",
        utc_now,
    )
