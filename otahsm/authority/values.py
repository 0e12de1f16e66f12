"""What is asked of the certification authority and what it answers, where no room below has a word for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from otahsm.authority.jobs import JobState
from otahsm.ledger import BatchState, CertificateRecord
from otahsm.pki import Chain, Profile, SerialNumber


class AuthorityState(NamedTuple):
    """A CA, and how the daemon is.

    Attributes:
        chain: its certificates.
        ready_signers: how many signers have made a signature that verified.
        trouble: why nothing can be signed now, for people; "" while certificates are issued.
        jobs: how everything is that goes on for as long as the daemon runs.
    """

    chain: Chain
    ready_signers: int
    trouble: str
    jobs: Sequence[JobState]


class Profiles(NamedTuple):
    """What may be issued, by name, and the name that an empty one stands for."""

    by_name: Mapping[str, Profile]
    default: str


class DeviceKey(NamedTuple):
    """The certificate that a device has under a profile; `profile` is empty for the default one."""

    device_id: str
    profile: str


CertificateKey: TypeAlias = SerialNumber | DeviceKey


class FoundCertificate(NamedTuple):
    """What the ledger has, and the chain without the root, leaf first, in DER; empty if there is none."""

    record: CertificateRecord
    chain: tuple[bytes, ...]


class BatchPage(NamedTuple):
    """Batches in the order of their ids, and the id after which the next page begins; None at the end."""

    states: list[BatchState]
    next_after: int | None
