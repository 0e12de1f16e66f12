"""The daemons that a client can call, and the choice of the next one.

Each address has its own channel, so that a daemon's certificate is checked against the host name in its own
address. A channel balances between the daemons behind one name (`round_robin`), and watches their health: it
is ready when one of them can sign.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Final

import grpc

from otahsm.client.connection import ClientTls, open_channel
from otahsm.errors import ConfigError

BALANCED: Final = (
    (
        "grpc.service_config",
        json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "healthCheckConfig": {"serviceName": ""},  # the daemon as a whole
            }
        ),
    ),
    ("grpc.service_config_disable_resolution", 1),  # a TXT record must not turn this off
)
_CONNECT_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.01


class Replicas:
    """All addresses, which are used in turn.

    Args:
        targets: `host:port` each; the certificate of the daemon there must be valid for that host.
        tls: the client's files.

    Raises:
        ConfigError: a TLS file can't be read, or there is no target.
    """

    def __init__(self, targets: Sequence[str], tls: ClientTls) -> None:
        if not targets:
            raise ConfigError("there is no daemon to call", hint="Give at least one host:port.")
        self._targets = targets
        # Only to daemons that can sign.
        self._serving = [open_channel(target, tls, options=BALANCED) for target in targets]
        # To any daemon: one that can't sign reports why.
        self._reachable = [open_channel(target, tls) for target in targets]
        # Clients with the same list start at different positions.
        self._turn: int = random.randrange(len(targets))  # noqa: S311 - no secret

    async def choose(self) -> tuple[str, grpc.aio.Channel]:
        """Return the target and the channel for the next call.

        It is the next daemon that can sign. If there is none, it is the next one that can be reached, which
        reports why; otherwise just the next one, so that the call fails with its own error.
        """
        for channels in (self._serving, self._reachable):
            turn = await self._next_ready(channels)
            if turn is not None:
                return self._take(turn, channels)
        return self._take(self._turn, self._reachable)

    def _take(self, turn: int, channels: Sequence[grpc.aio.Channel]) -> tuple[str, grpc.aio.Channel]:
        self._turn = (turn + 1) % len(channels)
        return self._targets[turn], channels[turn]

    async def _next_ready(self, channels: Sequence[grpc.aio.Channel]) -> int | None:
        """Connect; return the next channel that is ready, or None if all fail or time out."""
        give_up = time.monotonic() + _CONNECT_SECONDS
        turns: list[int] = [*range(self._turn, len(channels)), *range(self._turn)]
        while time.monotonic() < give_up:
            states = [channel.get_state(try_to_connect=True) for channel in channels]
            for turn in turns:
                if states[turn] is grpc.ChannelConnectivity.READY:
                    return turn
            if all(state is grpc.ChannelConnectivity.TRANSIENT_FAILURE for state in states):
                return None
            # Not `wait_for_state_change`: it would have to be cancelled for all channels but one.
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    async def close(self) -> None:
        """Close all channels."""
        for channel in (*self._serving, *self._reachable):
            await channel.close()
