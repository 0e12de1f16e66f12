"""A root that is not in our token: OpenSSL's, as another department would have it."""

from __future__ import annotations

from pathlib import Path

from support.programs import openssl

DAYS = ("-days", "365")


def external_root(folder: Path, *extensions: str) -> None:
    """Make root.key and root.pem."""
    usage = extensions or ("keyUsage=critical,keyCertSign,cRLSign",)
    options = [word for extension in usage for word in ("-addext", extension)]
    made = openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
        "/CN=Acme Root", *DAYS, "-keyout", folder / "root.key", "-out", folder / "root.pem", *options,
    )  # fmt: skip
    assert made.good, made.text


def sign(folder: Path, csr: Path, certificate: Path, *extensions: str) -> None:
    """Have the external root sign a CSR, with what it asks for or with other extensions."""
    options: list[str | Path] = ["-copy_extensions", "copyall"]
    if extensions:
        (folder / "extensions").write_text("\n".join(extensions))
        options = ["-extfile", folder / "extensions"]
    made = openssl(
        "x509", "-req", "-in", csr, "-CA", folder / "root.pem", "-CAkey", folder / "root.key", *DAYS, "-out",
        certificate, *options,
    )  # fmt: skip
    assert made.good, made.text
