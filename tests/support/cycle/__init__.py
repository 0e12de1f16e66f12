"""The issuance cycle as a model, and what is drawn for it."""
