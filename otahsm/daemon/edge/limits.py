"""All limits on clients' use of the daemon, with their reasons.

Most are enforced by gRPC's core before any of our code runs (`options`), the others by `boundary`, `stream`
and `log`. ADR 32 describes their effect on well-behaved clients.
"""

from __future__ import annotations

from typing import Final

MEBIBYTE: Final = 2**20

# Messages. 256 requests with CSRs of 8 KiB, or 127 of the largest: real CSRs have 300 to 1,700 octets.
MAX_MESSAGE_BYTES: Final = 2 * MEBIBYTE
# gRPC's core knows one limit for all methods. So a larger message is received, but neither decoded nor kept.
MAX_CALL_BYTES: Final = 64 * 1024  # one CSR, or a batch with its values and clients
MAX_TARGETS_BYTES: Final = 512 * 1024  # 256 certificates to revoke
MAX_NAME_BYTES: Final = 1024  # the name of a service, for health and reflection
MAX_REQUESTS: Final = 256  # in one message
# A result has the id of its request, and is kept until it is read: a longer one is not returned.
MAX_RETURNED_ID: Final = 1024  # characters; 128 are allowed
# A stream's requests whose results the client has not read; and the octets of those without a result.
MAX_IN_HAND: Final = 1024
MAX_IN_HAND_BYTES: Final = 2 * MEBIBYTE
LOOKAHEAD_BYTES: Final = 64 * 1024  # of a stream that gRPC's core takes before they are read
MAX_METADATA_BYTES: Final = 8 * 1024  # ours has a few hundred octets

# Calls. They limit the daemon's memory: a call that waits for its message holds up to one message.
MAX_CALLS: Final = 1024  # in total
MAX_STREAMS_A_CONNECTION: Final = 100  # the minimum that HTTP/2 recommends; more wait in the client
MAX_CALLS_A_CLIENT: Final = 64  # with requests; a line's stations may share a certificate
MAX_WATCHES_A_CLIENT: Final = 256  # health watches: each channel of the SDK has one
MAX_RECEIVING_A_CLIENT: Final = 8  # messages of unary calls and watches at a time; the next ones take turns
# Calls whose responses may have megabytes, from the query until the client has read it; the same.
MAX_ANSWERING_A_CLIENT: Final = 8
MESSAGE_SECONDS: Final = 30.0  # until the message of a unary call must have arrived
# What all calls of a client cost at most: for each of its streams a message while it is received, the same
# decoded, its requests, and those in hand; and what workers, gRPC's core and the allocator have. It is
# given back when the client is gone. Measured with all 64 streams (`make soak`): 603 of these 640 MiB.
# Of lists and CRLs, it is three times MAX_ANSWERING_A_CLIENT of the largest one.
MAX_CLIENT_BYTES: Final = MAX_CALLS_A_CLIENT * (3 * MAX_MESSAGE_BYTES + MAX_IN_HAND_BYTES) + 128 * MEBIBYTE
TRIM_SECONDS: Final = 5.0  # between two times that freed memory is given back

# Streams. Ending one loses nothing: issued certificates are in the ledger, and a retry returns them.
IDLE_STREAM_SECONDS: Final = 1800.0  # without new requests or pending results
STALLED_STREAM_SECONDS: Final = 120.0  # that the client may take to read a message of results

# Connections. With the workers' pipes and files these stay below 1,024 descriptors, the usual soft limit.
MAX_CONNECTIONS: Final = 800
HANDSHAKE_SECONDS: Final = 10  # for TLS and HTTP/2's first frames; an honest client takes milliseconds
IDLE_CONNECTION_SECONDS: Final = 120  # without any call; the next call reconnects
# Bounds whatever a client withholds, and makes it present its certificate again.
CONNECTION_AGE_SECONDS: Final = 7200
CONNECTION_GRACE_SECONDS: Final = 600
# A ping detects a client that vanished or doesn't read.
KEEPALIVE_SECONDS: Final = 60
KEEPALIVE_TIMEOUT_SECONDS: Final = 20
# Our clients ping every 10 seconds, even on a quiet stream; by default gRPC considers that abuse.
PING_INTERVAL_SECONDS: Final = 5
MAX_PING_STRIKES: Final = 2

# The log: lines per event that clients can cause at will, in a burst and per second.
LOG_BURST: Final = 200
LOG_LINES_A_SECOND: Final = 20.0

_ONLY_IDENTITY: Final = 1  # no compression: certificates and CSRs don't compress, but bombs inflate


def options() -> tuple[tuple[str, int], ...]:
    """Return the limits that gRPC's core enforces, as channel arguments."""
    return (
        ("grpc.so_reuseport", 0),  # a second daemon on the port must fail instead of sharing it
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.compression_enabled_algorithms_bitset", _ONLY_IDENTITY),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),  # equal: in between, calls fail at random
        ("grpc.max_concurrent_streams", MAX_STREAMS_A_CONNECTION),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.http2.settings_timeout", HANDSHAKE_SECONDS * 1000),
        # Otherwise what a stream may send before it is read grows to megabytes with the network's speed.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
        ("grpc.max_connection_idle_ms", IDLE_CONNECTION_SECONDS * 1000),
        ("grpc.max_connection_age_ms", CONNECTION_AGE_SECONDS * 1000),
        ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_SECONDS * 1000),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_SECONDS * 1000),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
    )
