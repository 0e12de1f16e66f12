"""What a signer signs: certificates, CRLs and checkpoints of its mandate, its probe line, and nothing else.

It is asked with values, never with octets to be signed: it builds those itself. So whoever takes over the
process that asks gets no signature that the configuration does not give.
"""
