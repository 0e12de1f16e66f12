"""A signer: the process that holds PIN, session and key. `python -m otahsm.token.signer` is its main.

It answers a batch of messages with as many signatures, each verified. Any fault of the token's ends the
process: a session on which a call failed may be poisoned, and a fresh process is known to recover.
"""

from __future__ import annotations

from contextlib import ExitStack

from otahsm.config import CaConfig, TokenConfig
from otahsm.pki import load_issuer
from otahsm.token.keys import find_private_key
from otahsm.token.pool import PROBE
from otahsm.token.session import logged_in
from otahsm.token.signing import SigningKey
from otahsm.workers import run_worker
from otahsm.workers.child import Handler

_for_life = ExitStack()


def start(setup: list[bytes]) -> Handler:
    """Log in, find the key and show that it signs; return what answers a batch.

    Args:
        setup: [token] and [ca] as JSON, and the CA certificate in DER.
    """
    token_json, ca_json, certificate = setup
    issuer = load_issuer(certificate)
    session = _for_life.enter_context(logged_in(TokenConfig.model_validate_json(token_json)))
    key = SigningKey(
        find_private_key(session, CaConfig.model_validate_json(ca_json)), issuer.public_key, issuer.algorithm
    )
    key.sign(PROBE)
    return lambda messages: [key.sign(message) for message in messages]


if __name__ == "__main__":
    run_worker(start)
