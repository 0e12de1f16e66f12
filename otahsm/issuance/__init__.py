"""The issuance cycle: admission, preparation, journal, signature, record, release. See `cycle`."""
