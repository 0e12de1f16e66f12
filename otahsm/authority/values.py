"""Parameters and results of the certification authority that no other package defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from otahsm.authority.jobs import JobState
from otahsm.ledger import BatchState, CertificateRecord
from otahsm.pki.chain import Chain
from otahsm.pki.profile import Profile
from otahsm.pki.serial import SerialNumber


class AuthorityState(NamedTuple):
    """A CA, and the health of the daemon.

    Attributes:
        chain: its certificates.
        ready_signers: the number of signers that have made a signature that was verified.
        trouble: a human-readable reason why nothing can be signed now; "" if there is none.
        jobs: the states of the background jobs.
        other_anchors: the roots of the other CAs, retired ones too, in DER.
    """

    chain: Chain
    ready_signers: int
    trouble: str
    jobs: Sequence[JobState]
    other_anchors: Sequence[bytes]


class Profiles(NamedTuple):
    """All profiles by name, and the name of the default profile."""

    by_name: Mapping[str, Profile]
    default: str


class DeviceKey(NamedTuple):
    """Selects a device's current certificate under a profile; `profile` is empty for the default."""

    device_id: str
    profile: str


CertificateKey: TypeAlias = SerialNumber | DeviceKey


class FoundCertificate(NamedTuple):
    """A record, and the chain without the root, leaf first, in DER; empty if there is no certificate."""

    record: CertificateRecord
    chain: tuple[bytes, ...]


class BatchPage(NamedTuple):
    """Batches in order of their ids, and the id after which the next page starts; None at the end."""

    states: list[BatchState]
    next_after: int | None
