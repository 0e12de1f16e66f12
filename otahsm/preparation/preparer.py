"""A preparer: the process that parses hostile CSRs. `python -m otahsm.preparation.preparer` is its main.

It checks CSRs, draws serial numbers and builds TBS certificates: step 2 of the cycle, pure but for the
random numbers. It has no token, no database and no network, so a CSR that breaks the parser breaks
nothing else.
"""

from __future__ import annotations

import hashlib
import json
import secrets

from otahsm.config import ProfileConfig
from otahsm.errors import RequestRefusedError
from otahsm.pki import Issuer, build_tbs, check_csr, load_issuer, serial_from_random
from otahsm.preparation.codec import Draft, Task, decode_tasks, encode_answer
from otahsm.workers import run_worker
from otahsm.workers.child import Handler


def start(setup: list[bytes]) -> Handler:
    """Load the profiles and the CA certificate; return what answers a batch.

    Args:
        setup: profiles as JSON, by name, and the CA certificate in DER.
    """
    profiles_json, certificate = setup
    issuer = load_issuer(certificate)
    profiles = {
        name: ProfileConfig.model_validate(profile) for name, profile in json.loads(profiles_json).items()
    }

    def handle(parts: list[bytes]) -> list[bytes]:
        return [
            part for task in decode_tasks(parts) for part in encode_answer(_prepare(task, profiles, issuer))
        ]

    return handle


def _prepare(task: Task, profiles: dict[str, ProfileConfig], issuer: Issuer) -> Draft | RequestRefusedError:
    profile = profiles[task.profile]
    try:
        csr = check_csr(task.csr, profile, task.device_id)
    except RequestRefusedError as error:
        return error
    serial = serial_from_random(secrets.token_bytes(20))
    tbs = build_tbs(csr, profile, issuer, serial, task.validity)
    return Draft(tbs, csr.device_id, hashlib.sha256(csr.spki).digest(), serial)


if __name__ == "__main__":
    run_worker(start)
