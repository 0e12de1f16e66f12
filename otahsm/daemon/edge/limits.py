"""What one client may take of the daemon, and all of them together. Every limit is here, with its reason.

Most are enforced by gRPC's core before any code of ours runs (`options`), the others by `boundary`, `stream`
and `log`. ADR 32 says what a well-behaved client sees of each.
"""

from __future__ import annotations

from typing import Final

MEBIBYTE: Final = 2**20

# Messages. 256 requests with CSRs of 8 KiB, or 64 of the largest: real CSRs have 300 to 1,700 octets.
MAX_MESSAGE_BYTES: Final = 2 * MEBIBYTE
MAX_REQUESTS: Final = 256  # in one message
# A stream's requests whose results the client has not taken; and the octets of those not answered yet.
MAX_IN_HAND: Final = 1024
MAX_IN_HAND_BYTES: Final = 2 * MEBIBYTE
MAX_METADATA_BYTES: Final = 8 * 1024  # ours is some hundred octets

# Calls. The daemon's own memory is what they hold: a call that waits for its message holds up to one message.
MAX_CALLS: Final = 1024  # in all
MAX_STREAMS_A_CONNECTION: Final = 100  # what HTTP/2 recommends at least; more wait in the client
MAX_CALLS_A_CLIENT: Final = 64  # with requests; a line's stations may share a certificate
MAX_WATCHES_A_CLIENT: Final = 256  # of its health: each channel of the SDK holds one
MESSAGE_SECONDS: Final = 30.0  # for the message of a call that carries one

# Streams. Ending one loses nothing: what was issued is in the ledger, and is returned when asked again.
IDLE_STREAM_SECONDS: Final = 1800.0  # nothing asked, nothing owed
STALLED_STREAM_SECONDS: Final = 120.0  # a message of results that the client does not take

# Connections. With the workers' pipes and files these stay below 1,024 descriptors, the usual soft limit.
MAX_CONNECTIONS: Final = 800
HANDSHAKE_SECONDS: Final = 10  # for TLS and HTTP/2's first frames; an honest client takes milliseconds
IDLE_CONNECTION_SECONDS: Final = 120  # no call at all; the next one connects anew
# Whatever a client withholds, it can't withhold it longer than this; and a certificate is looked at again.
CONNECTION_AGE_SECONDS: Final = 7200
CONNECTION_GRACE_SECONDS: Final = 600
# A client that is gone without a word, or does not read what it is sent, is found by a ping.
KEEPALIVE_SECONDS: Final = 60
KEEPALIVE_TIMEOUT_SECONDS: Final = 20
# Our clients ping every 10 seconds, also beside a quiet stream; gRPC takes that as abuse by default.
PING_INTERVAL_SECONDS: Final = 5
MAX_PING_STRIKES: Final = 2

# The log. Of each event that a client can cause at will, so many lines at once, and a second.
LOG_BURST: Final = 200
LOG_LINES_A_SECOND: Final = 20.0

_ONLY_IDENTITY: Final = 1  # certificates and CSRs do not get smaller; nothing is inflated for anybody


def options() -> tuple[tuple[str, int], ...]:
    """Return the limits that gRPC's core enforces, as channel arguments."""
    return (
        ("grpc.so_reuseport", 0),  # a second daemon on the port must fail, not share it
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.compression_enabled_algorithms_bitset", _ONLY_IDENTITY),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),  # between the two, chance would decide
        ("grpc.max_concurrent_streams", MAX_STREAMS_A_CONNECTION),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.http2.settings_timeout", HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_idle_ms", IDLE_CONNECTION_SECONDS * 1000),
        ("grpc.max_connection_age_ms", CONNECTION_AGE_SECONDS * 1000),
        ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_SECONDS * 1000),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_SECONDS * 1000),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
    )
