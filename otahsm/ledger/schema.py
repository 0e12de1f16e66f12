"""The ledger's tables. Rows are only added, except that intents are voided, or superseded by newer ones.

An intent is written before its signature is made (I2), a certificate before it is released (I1). An
intent is open until it has a certificate or is voided; so every serial number that may exist has a row.

Times are microseconds since the Unix epoch, in UTC; those in certificates and CRLs are seconds. Digests are
SHA-256, 32 octets. Serial numbers are 20 octets, big-endian, so that they sort and compare as numbers.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    cast,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# SQLite assigns rowids only to INTEGER; PostgreSQL needs the range of BIGINT.
_Id = BigInteger().with_variant(Integer, "sqlite")

intents: Final = Table(
    "intents",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("serial", LargeBinary(20), nullable=False),
    # The client's id for the request; empty if it gave none, or one derived from the content.
    Column("request_id", String(128), nullable=False),
    Column("profile", Text, nullable=False),
    Column("device_id", String(128), nullable=False),
    Column("spki_sha256", LargeBinary(32), nullable=False),
    Column("tbs_sha256", LargeBinary(32), nullable=False),
    Column("issuer_key_id", LargeBinary, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    # The client: the identity in its certificate, or its key if the policy pins that (in older rows, always
    # the former); and which certificate that was.
    Column("client", Text, nullable=False),
    Column("client_certificate_sha256", LargeBinary(32), nullable=False),
    Column("intended_at", BigInteger, nullable=False),
    # Why it was voided; NULL if it was not.
    Column("void_reason", Text, nullable=True),
    Column("voided_at", BigInteger, nullable=True),
    # Since when it is superseded (microseconds), and by which id; no id after a reset by an operator. NULL
    # while it is live.
    Column("superseded_at", BigInteger, nullable=True),
    Column("superseded_by", BigInteger, nullable=True),
    # The slot of the replica that wrote it: see `replicas`.
    Column("place", Integer, nullable=False, server_default="1"),
    # The batch that it was requested in; NULL for none.
    Column("batch_id", BigInteger, nullable=True),
    # The quota that it counts in; NULL for none.
    Column("quota_id", BigInteger, nullable=True),
    # The client's name in the policy; NULL in rows from before there was this column.
    Column("policy_client", Text, nullable=True),
    # The intent that it was written to supersede; NULL for none. It stays when this one is voided, and the
    # other is live again.
    Column("supersedes", BigInteger, nullable=True),
    # Void has a reason and a time; superseded by another has a time; and not both.
    CheckConstraint(
        "(void_reason IS NULL) = (voided_at IS NULL)"
        " AND (superseded_by IS NULL OR superseded_at IS NOT NULL)"
        " AND (void_reason IS NULL OR superseded_at IS NULL)",
        name="one_kind",
    ),
)

# Serial numbers as octets. SQLite also stores text or numbers that somebody wrote: one such row must not hide
# the others. Leaves are read from the plain columns, so that `verify` reports it.
serial_octets: Final = cast(intents.c.serial, LargeBinary).label("serial")

# Neither voided nor superseded.
live: Final = (intents.c.void_reason.is_(None)) & (intents.c.superseded_at.is_(None))


def _where(condition: str) -> dict[str, Any]:
    """Return the arguments of an index with only the rows that meet a condition, for both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


_LIVE: Final = "void_reason IS NULL AND superseded_at IS NULL"

# Exactly once (I3): one live intent per device and profile, and one per request id of a client. Every index
# over random values costs a disk page per certificate, so there are no more than are needed.
Index("ix_intents_serial", intents.c.serial, unique=True)
Index("ix_intents_device", intents.c.device_id, intents.c.profile, unique=True, **_where(_LIVE))
Index(
    "ix_intents_request",
    intents.c.request_id,
    intents.c.client,
    unique=True,
    **_where(f"{_LIVE} AND request_id <> ''"),
)
# A key belongs to its device forever, whatever happened to the certificate.
Index("ix_intents_key", intents.c.spki_sha256, **_where("void_reason IS NULL"))
Index("ix_intents_superseded", intents.c.superseded_by, **_where("superseded_by IS NOT NULL"))
Index("ix_intents_superseded_device", intents.c.device_id, **_where("superseded_at IS NOT NULL"))

# For look-ups of voided intents. They cost nothing during issuance, since they don't contain live rows.
Index("ix_intents_void", intents.c.serial, **_where("void_reason IS NOT NULL"))
Index("ix_intents_void_device", intents.c.device_id, **_where("void_reason IS NOT NULL"))
Index("ix_intents_batch", intents.c.batch_id, intents.c.serial, **_where("batch_id IS NOT NULL"))

# Orders for N certificates: see `otahsm.ledger.write.batches`.
batches: Final = Table(
    "batches",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("profile", Text, nullable=False),
    Column("device_count", BigInteger, nullable=False),
    # How device ids are chosen, encoded by `Scheme.text`.
    Column("scheme", Text, nullable=False),
    Column("deadline", BigInteger, nullable=True),
    # The clients that may issue in it, by name in the policy or identity: a JSON array; empty for all.
    Column("clients", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger, nullable=True),
    # The number of its intents that are not void.
    Column("taken", BigInteger, nullable=False),
)
Index("ix_batches_name", batches.c.name, unique=True)

# The usage of clients that have quotas: see `otahsm.access.quota`. Names are those in the policy.
quotas: Final = Table(
    "quotas",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("client", String(64), nullable=False),
    Column("taken", BigInteger, nullable=False),
    Column("day", BigInteger, nullable=False),
    Column("day_taken", BigInteger, nullable=False),
    Column("rate_full_at", BigInteger, nullable=False),
)
Index("ix_quotas_client", quotas.c.client, unique=True)

# Denied clients; a row is deleted when the client is allowed again. Both are audit events.
denied_clients: Final = Table(
    "denied_clients",
    metadata,
    # "uri:", "dns:", "cn:" and a name; "spki:" or "sha256:", of a key or a certificate, and the digest.
    Column("subject", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    # The client that denied it: its identity, as in `intents`.
    Column("client", Text, nullable=False),
    Column("denied_at", BigInteger, nullable=False),
)

# The audit log: allowed and denied calls, logins, ceremonies, changes.
events: Final = Table(
    "events",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("happened_at", BigInteger, nullable=False),
    Column("name", String(64), nullable=False),
    # The client that caused it: an identity, or the daemon, or a user of its host.
    Column("client", Text, nullable=False),
    # How often it happened until the next event of this kind.
    Column("occurrences", BigInteger, nullable=False),
    # Further details: a JSON object in canonical form (RFC 8785).
    Column("details", Text, nullable=False),
)
Index("ix_events_time", events.c.happened_at)

# What can't be undone, and who asked for it: see `otahsm.ledger.act_values`. What exceeded a quota is held:
# it has no effect until it is confirmed.
acts: Final = Table(
    "acts",
    metadata,
    Column("id", _Id, primary_key=True),
    # An `otahsm.ledger.act_values.ActKind`.
    Column("act", String(16), nullable=False),
    # The client that asked for it: its identity and name as in `intents`, its certificate, and the key in it.
    Column("client", Text, nullable=False),
    Column("policy_client", Text, nullable=False),
    Column("certificate_sha256", LargeBinary(32), nullable=False),
    Column("spki_sha256", LargeBinary(32), nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    # How many things it changes: the certificates of a revocation, otherwise 1.
    Column("size", BigInteger, nullable=False),
    Column("held", Boolean, nullable=False),
    # What was asked, if it is held: JSON in canonical form (RFC 8785). Otherwise empty: other rows say it.
    Column("payload", Text, nullable=False),
    # What became of a held one, "confirmed" or "rejected", when, and by whom; NULL as long as it is open.
    Column("decision", String(16), nullable=True),
    Column("decided_at", BigInteger, nullable=True),
    Column("decided_by", Text, nullable=True),
    Column("decided_policy_client", Text, nullable=True),
    # How many things it changed when it was confirmed.
    Column("done", BigInteger, nullable=True),
    # The user of the CA's host and the reason, as JSON, if no second principal confirmed it.
    Column("break_glass", Text, nullable=True),
    # A decision is complete.
    CheckConstraint(
        "(decision IS NULL) = (decided_at IS NULL)"
        " AND (decision IS NULL) = (decided_by IS NULL)"
        " AND (decision IS NULL) = (decided_policy_client IS NULL)"
        " AND (decision IS NULL) = (done IS NULL)"
        " AND (break_glass IS NULL OR decision IS NOT NULL)",
        name="decided",
    ),
)
Index("ix_acts_time", acts.c.requested_at)

certificates: Final = Table(
    "certificates",
    metadata,
    Column("intent_id", _Id, ForeignKey("intents.id"), primary_key=True),
    Column("der", LargeBinary, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
)

# Every daemon on the ledger holds its own slot (`place`); with SQLite there is one daemon, in slot 1. Every
# intent of a slot with an id below `closed_below` has a certificate or is voided, so that open intents are
# found without reading all rows.
replicas: Final = Table(
    "replicas",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("closed_below", _Id, nullable=False),
)

# Entries that were recorded but are not leaves yet; they are written in the same transaction. Kinds are those
# of `otahsm.ledger.tree.log_entries`. The hash is the leaf's; the MAC shows that a daemon wrote the row.
pending_leaves: Final = Table(
    "unlogged",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("kind", SmallInteger, nullable=False),
    Column("intent_id", _Id, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Column("mac", LargeBinary(32), nullable=False),
)

# The Merkle tree (RFC 9162, section 2.1): the index of each leaf, its entry, and its hash. Neither this table
# nor that of pending leaves has foreign keys: `verify` checks whether the rows exist.
leaves: Final = Table(
    "leaves",
    metadata,
    Column("leaf_index", _Id, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("intent_id", _Id, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)
Index("ix_leaves_entry", leaves.c.intent_id, leaves.c.kind, unique=True)

# Roots of complete subtrees at every eighth level, so that proofs need not be computed from leaves.
nodes: Final = Table(
    "nodes",
    metadata,
    Column("level", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", _Id, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary(32), nullable=False),
)

# One row: the number of leaves, and the state for appending more (`tlog.CompactTree.peaks`).
tree: Final = Table(
    "tree",
    metadata,
    Column("size", _Id, primary_key=True, autoincrement=False),
    Column("peaks", LargeBinary, nullable=False),
)

# Signed checkpoints (c2sp.org/tlog-checkpoint) of the tree at some of its sizes. The time is not signed.
checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("size", _Id, primary_key=True, autoincrement=False),
    Column("note", LargeBinary, nullable=False),
    Column("made_at", BigInteger, nullable=False),
)

# Revoked certificates. Revocation is permanent: rows never change.
revocations: Final = Table(
    "revocations",
    metadata,
    Column("intent_id", _Id, ForeignKey("intents.id"), primary_key=True),
    Column("revoked_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    # The client that revoked it: its identity, as in `intents`.
    Column("client", Text, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    # The CRL distribution point in the certificate.
    Column("crl_url", Text, nullable=True),
)
Index("ix_revocations_crl_url", revocations.c.crl_url)

# Every CRL URL that certificates may contain, whatever the current configuration is: each needs a CRL, either
# the complete one or a shard's.
crl_urls: Final = Table(
    "crl_urls",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("issuer_key_id", LargeBinary, nullable=False),
    Column("url", Text, nullable=False),
    Column("complete", Boolean, nullable=False),
)
Index("ix_crl_urls_url", crl_urls.c.url, unique=True)

# The latest CRL of each scope of a CA: a shard's by its URL, and the names in `otahsm.ledger.records`.
crls: Final = Table(
    "crls",
    metadata,
    Column("issuer_key_id", LargeBinary, primary_key=True),
    Column("url", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("this_update", BigInteger, nullable=False),
    Column("next_update", BigInteger, nullable=False),
    # The number of certificates on it. Revocations are only added, so equal numbers mean that it is complete.
    Column("revoked", BigInteger, nullable=False),
    Column("der", LargeBinary, nullable=False),
)

# The last CRL number that was taken, and its thisUpdate.
crl_numbers: Final = Table(
    "crl_numbers",
    metadata,
    Column("issuer_key_id", LargeBinary, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("this_update", BigInteger, nullable=False),
)

# Versions of the schema that an older otahsm may use, too: one that knows `usable_since` or a later one. A
# migration says so if it only adds tables, columns that may be NULL and have no default, and plain indexes.
compatible_schemas: Final = Table(
    "compatible_schemas",
    metadata,
    Column("version", String(32), primary_key=True),
    Column("usable_since", String(32), nullable=False),
)
