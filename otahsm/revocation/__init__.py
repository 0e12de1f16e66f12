"""Revocation: what is revoked, the CRLs that say so, and the files that web servers hand out."""
