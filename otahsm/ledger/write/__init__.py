"""The writer, and its transactions: intents, certificates, revocations, batches, quotas and events."""
