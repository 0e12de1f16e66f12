"""What the writer's transactions do: intents, certificates, revocations, batches, quotas and events."""
