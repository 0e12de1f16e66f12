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
from functools import cache

from otahsm.config import CrlConfig, ProfileConfig
from otahsm.errors import RequestRefusedError
from otahsm.pki import (
    SERIAL_RANDOM_BYTES,
    Issuer,
    SubjectTemplate,
    TbsTemplate,
    check_csr,
    crl_url,
    load_issuer,
    make_serial,
    shard_of,
)
from otahsm.preparation.codec import Draft, Task, decode_tasks, encode_answer
from otahsm.workers import run_worker
from otahsm.workers.child import Handler


def start(setup: list[bytes]) -> Handler:
    """Load the profiles, the CA certificate and where CRLs are; return what answers a batch.

    Args:
        setup: profiles as JSON, by name; and for each, in that order, the CA certificate in DER, the family
            of its signatures, and [crl] as JSON, empty without.
    """
    profiles_json, *parts = setup
    models = json.loads(profiles_json).items()
    profiles = {name: ProfileConfig.model_validate(model) for name, model in models}
    issuers: dict[str, Issuer] = {}
    crls: dict[str, CrlConfig | None] = {}
    for at, name in enumerate(profiles):
        certificate, family, crl_json = parts[3 * at : 3 * at + 3]
        issuers[name] = load_issuer(certificate, pss=family == b"rsa-pss")
        crls[name] = CrlConfig.model_validate_json(crl_json) if crl_json else None

    @cache
    def template(profile: str, shard: int) -> TbsTemplate:
        crl = crls[profile]
        return TbsTemplate(profiles[profile], issuers[profile], crl_url(crl, shard) if crl else None)

    subjects = {name: SubjectTemplate(profile.subject_parts) for name, profile in profiles.items()}

    def prepare(task: Task) -> Draft | RequestRefusedError:
        try:
            csr = check_csr(task.csr, profiles[task.profile], task.device_id)
            others = subjects[task.profile].fill(task.attributes)
        except RequestRefusedError as error:
            return error
        serial = make_serial(secrets.token_bytes(SERIAL_RANDOM_BYTES), time.time_ns() // 1_000_000)
        crl = crls[task.profile]
        shard = shard_of(serial, crl.shards) if crl else 0
        tbs = template(task.profile, shard).fill(csr, serial, task.validity, others)
        return Draft(tbs, csr.device_id, hashlib.sha256(csr.spki).digest(), serial)

    def handle(parts: list[bytes]) -> list[bytes]:
        answers: list[bytes] = []
        for task in decode_tasks(parts):
            answers += encode_answer(prepare(task))
        return answers

    for name in profiles:
        template(name, 0)  # those of other shards are made when they are first needed
    return handle


if __name__ == "__main__":
    run_worker(start)
