"""The signers of a token and its replicas, as the daemon sees them. This module never loads PKCS#11 (I8)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from otahsm.config import ReplicaConfig, TokenConfig
from otahsm.errors import (
    BadSignatureError,
    OtahsmError,
    SigningRefusedError,
    TokenUnavailableError,
    WorkerLostError,
    WorkersBusyError,
)
from otahsm.tlog import EMPTY_ROOT, Checkpoint
from otahsm.token.desk import codec
from otahsm.token.desk.codec import CertificateToSign, CrlToSign, LastCheckpoint, LastCrl
from otahsm.token.pin.keeper import pin_keeper
from otahsm.token.setup import Mandate, encode_token
from otahsm.workers.pool import Report, WorkerPool

SIGNER_MODULE = "otahsm.token.signer"
REFUSED: Final = "signing.refused"

_DEPTH: Final = 2  # one batch in the sessions, and one that they go on with
_NO_SIZE: Final = 1 << 62  # leaves
_PROBE_SECONDS: Final = 5.0
_LONGEST_PAUSE: Final = 15.0  # a token that is away is not hammered


def socket_setup(token: int, mandate: Mandate) -> list[bytes]:
    """Return the first message to a signer of another user, which has a mandate of its own.

    Returns:
        The number of the token among [token] and its replicas, and the digest of what the daemon expects to
        be signed.
    """
    return [b"%d" % token, mandate.digest]


_Answer = TypeVar("_Answer")


class _Member:
    """One token of the pool: its signers, and what it has to do."""

    def __init__(self, token: ReplicaConfig, pool: WorkerPool) -> None:
        self.token = token
        self.pool = pool
        self.outstanding = 0
        self.in_service = True

    @property
    def load(self) -> float:
        """What it would have to do with one batch more, for its weight."""
        return (self.outstanding + 1) / self.token.weight if self.token.weight else float("inf")


class SignerPool:
    """Keeps `[token] signers` processes signing, each with every key: one login does for all of them (I7).

    With replicas, each batch goes to the token that has the least to do for its weight; one of weight 0 is
    given batches only while no other can sign. What one token fails at, another is given. A token that
    returns a signature that does not verify (I4) is out of service from then on, if another can sign.

    Args:
        token: where the keys are, and how to log in.
        mandate: what they sign. They count as ready when they have made a signature with each of its keys.
        wait_seconds: how long a batch waits for a free signer.
        report: called with (event, pid, error) when a signer is ready or lost, a token out of service, and a
            signature refused.
    """

    def __init__(self, token: TokenConfig, mandate: Mandate, *, wait_seconds: float, report: Report) -> None:
        self._report = report
        self._wait_seconds = wait_seconds
        self._changed = asyncio.Event()
        self._members = [self._member(number, one, mandate) for number, one in enumerate(token.all)]
        self._closing: set[asyncio.Task[None]] = set()

    def _member(self, number: int, token: ReplicaConfig, mandate: Mandate) -> _Member:
        def report(event: str, pid: int, error: OtahsmError | None) -> None:
            self._report_event(member, event, pid, error)

        keeper = pin_keeper() if token.uri.pin.kind == "prompt" else None
        pool = WorkerPool(
            "signer",
            SIGNER_MODULE,
            socket_setup(number, mandate)
            if token.signer_socket or keeper
            else [encode_token(token), *mandate.encode()],
            size=token.signers,
            depth=_DEPTH,
            environment=os.environ,
            call_seconds=token.sign_timeout_seconds,
            wait_seconds=self._wait_seconds,
            probe=[codec.PROBE],
            probe_seconds=_PROBE_SECONDS,
            longest_pause=_LONGEST_PAUSE,
            report=report,
            start=keeper.start_signer if keeper else None,
            socket=token.signer_socket,
        )
        member = _Member(token, pool)
        return member

    @property
    def ready(self) -> int:
        """How many signers hold a session and have made a signature that verified."""
        return sum(member.pool.ready for member in self._serving())

    @property
    def failure(self) -> OtahsmError | None:
        """Why no signer is ready; None if one is, or none has failed yet."""
        failures = (member.pool.failure for member in self._serving())
        return None if self.ready else next(filter(None, failures), None)

    async def start(self) -> Sequence[asyncio.Task[None]]:
        """Start the signers, and return while they log in, one by one; returns as `WorkerPool.start`."""
        return [keeper for member in self._members for keeper in await member.pool.start()]

    async def wait_until_ready(self) -> None:
        """Wait until a signer can sign.

        Raises:
            OtahsmError: no signer can sign, and none will without an operator.
        """
        while not self.ready:
            if all(member.pool.stopped for member in self._serving()) and (failure := self.failure):
                raise failure
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Stop the signers."""
        for member in self._members:
            await member.pool.close()
        await asyncio.gather(*self._closing)

    async def sign_certificates(
        self, profile: str, items: Sequence[CertificateToSign]
    ) -> list[bytes | SigningRefusedError]:
        """Have certificates of one profile signed; return a verified signature or a refusal for each.

        Raises:
            TokenUnavailableError: two signers, or every token, failed at it, or none was free in time.
            TokenRefusedError: the token refuses, and an operator must act.
        """
        return await self._ask_for(codec.encode_certificates(profile, items), len(items))

    async def sign_crls(self, authority: str, crls: Sequence[CrlToSign]) -> list[bytes | SigningRefusedError]:
        """Have CRLs of one CA signed, each of another scope; return a signature or a refusal for each.

        Raises as `sign_certificates`.
        """
        return await self._ask_for(codec.encode_crls(authority, crls), len(crls))

    async def last_crls(self, authority: str) -> dict[str, LastCrl]:
        """Return the last CRL of each scope of a CA that signers of this machine signed.

        Raises:
            SigningRefusedError: they can't tell.
            OtahsmError: as `sign_certificates`.
        """
        return await self._ask(codec.encode_last_numbers(authority), codec.decode_last_crls)

    async def last_checkpoint(self, origin: str) -> LastCheckpoint:
        """Return the last checkpoint of the mandate's log that signers of this machine signed.

        Raises:
            SigningRefusedError: they can't tell.
            OtahsmError: as `sign_certificates`.
        """
        # They answer with it to whoever believes that they signed another; no log has that many leaves.
        answer = await self.sign_checkpoint(Checkpoint(origin, 0, EMPTY_ROOT), _NO_SIZE, ())
        if isinstance(answer, bytes):
            raise SigningRefusedError("a signer signed a checkpoint in place of naming its last one")
        return answer

    async def sign_checkpoint(
        self, checkpoint: Checkpoint, last: int, proof: Sequence[bytes]
    ) -> bytes | LastCheckpoint:
        """Have a checkpoint signed.

        Args:
            checkpoint: of the log of the mandate.
            last: the size of the one that signers of this machine signed last; 0 for none.
            proof: that it continues that one.

        Returns:
            A verified signature; or what was signed last, if that was another.

        Raises:
            SigningRefusedError: a signer refused.
            OtahsmError: as `sign_certificates`.
        """
        return await self._ask(
            codec.encode_checkpoint(checkpoint, last, proof), codec.decode_checkpoint_answer
        )

    async def _ask_for(self, request: Sequence[bytes], count: int) -> list[bytes | SigningRefusedError]:
        answers = await self._ask(request, partial(codec.decode_signatures, count=count))
        for answer in answers:
            if isinstance(answer, SigningRefusedError):
                self._report(REFUSED, 0, answer)
        return answers

    async def _ask(self, request: Sequence[bytes], read: Callable[[list[bytes]], _Answer]) -> _Answer:
        try:
            return await self._sign(request, read)
        except SigningRefusedError as error:
            self._report(REFUSED, 0, error)
            raise
        except (WorkerLostError, WorkersBusyError) as error:
            raise TokenUnavailableError(f"no signer could sign: {error.message}") from error

    async def _sign(self, request: Sequence[bytes], read: Callable[[list[bytes]], _Answer]) -> _Answer:
        """Give a request to one token after the other; raise the error of the last one."""
        if len(self._serving()) > 1 and not self.ready:
            await self._wait_for_any()
        left = self._by_choice()
        while True:
            member = left.pop(0)
            # The last one is waited for, as a token that is alone is.
            alone = not any(other.pool.ready for other in left)
            member.outstanding += 1
            try:
                return await member.pool.ask(request, read, once=not alone)
            except SigningRefusedError:
                raise  # another token's signers would refuse, too
            except OtahsmError:
                if alone:
                    raise
            finally:
                member.outstanding -= 1

    async def _wait_for_any(self) -> None:
        """Return when one of several tokens has a signer again, and wait no longer than a batch may."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self.wait_until_ready()
        except TimeoutError:
            why = f": {self.failure.message}" if self.failure else ""
            raise WorkersBusyError(f"no token could sign within {self._wait_seconds:g} s{why}") from None

    def _serving(self) -> list[_Member]:
        return [member for member in self._members if member.in_service]

    def _by_choice(self) -> list[_Member]:
        """Return the tokens in service: those that can sign first, and of those who has the least to do."""
        return sorted(self._serving(), key=lambda member: (not member.pool.ready, member.load))

    def _report_event(self, member: _Member, event: str, pid: int, error: OtahsmError | None) -> None:
        if len(self._members) > 1 and error is not None:
            which = f"token {self._members.index(member) + 1}, {member.token.name}"
            error = type(error)(f"{which}: {error.message}", hint=error.hint)
        self._report(event, pid, error)
        another = any(other.pool.ready for other in self._serving() if other is not member)
        if isinstance(error, BadSignatureError) and member.in_service and another:
            member.in_service = False
            self._report("token.out_of_service", 0, error)
            task = asyncio.get_running_loop().create_task(member.pool.close())
            self._closing.add(task)
        self._changed.set()
