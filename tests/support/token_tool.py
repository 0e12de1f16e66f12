"""Makes a key pair in a token as otahsm never would: `python -m token_tool TOML ATTRIBUTE=BOOL...`.

It takes the label and id of [ca] key. It is a process of its own: PKCS#11 modules are loaded once in a life.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pkcs11 import Attribute, KeyType
from pkcs11.util.ec import encode_named_curve_parameters

from otahsm.config import load_config, section
from otahsm.token.session import logged_in


def main(toml: str, *given: str) -> None:
    config = load_config(Path(toml))
    key = section(config.ca, "ca").key
    words = (word.split("=") for word in given)
    template = {Attribute[name]: value == "true" for name, value in words}
    with logged_in(section(config.token, "token"), read_write=True) as login:
        parameters = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        domain = login.session.create_domain_parameters(KeyType.EC, parameters, local=True)
        domain.generate_keypair(label=key.object, id=key.id, store=True, private_template=template)


if __name__ == "__main__":
    main(*sys.argv[1:])
