"""Revocation: revoking certificates, making CRLs, and writing the files that web servers serve."""
