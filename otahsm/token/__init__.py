"""The only room that knows PKCS#11.

`SignerPool` in `pool` is what the daemon uses: it starts signer processes and never loads a PKCS#11 module
itself. Everything else here runs in a signer, or in the operator's own command (`otahsm ca`).
"""
