"""Reads hostile CSRs in separate processes, in step 2 of the issuance cycle.

What comes out of one is data: a device id and a public key, or a refusal. The daemon compares both with the
octets of the CSR, and nothing that a preparer returns is signed.
"""
