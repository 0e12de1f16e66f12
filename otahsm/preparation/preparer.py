"""A preparer: the process that parses hostile CSRs. `python -m otahsm.preparation.preparer` is its main.

It checks CSRs, draws serial numbers and builds TBS certificates: step 2 of the cycle, pure but for the
random numbers. It has no token, no database and no network, so a CSR that breaks the parser breaks
nothing else.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time

from otahsm.config import ProfileConfig
from otahsm.errors import RequestRefusedError
from otahsm.pki import SERIAL_RANDOM_BYTES, TbsTemplate, check_csr, load_issuer, make_serial
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
    models = json.loads(profiles_json).items()
    profiles = {name: ProfileConfig.model_validate(model) for name, model in models}
    desks = {name: (profile, TbsTemplate(profile, issuer)) for name, profile in profiles.items()}

    def handle(parts: list[bytes]) -> list[bytes]:
        answers: list[bytes] = []
        for task in decode_tasks(parts):
            answers += encode_answer(_prepare(task, *desks[task.profile]))
        return answers

    return handle


def _prepare(task: Task, profile: ProfileConfig, template: TbsTemplate) -> Draft | RequestRefusedError:
    try:
        csr = check_csr(task.csr, profile, task.device_id)
    except RequestRefusedError as error:
        return error
    serial = make_serial(secrets.token_bytes(SERIAL_RANDOM_BYTES), time.time_ns() // 1_000_000)
    tbs = template.fill(csr, serial, task.validity)
    return Draft(tbs, csr.device_id, hashlib.sha256(csr.spki).digest(), serial)


if __name__ == "__main__":
    run_worker(start)
