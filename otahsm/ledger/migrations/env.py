"""Runs the migrations on the connection that `otahsm.ledger.migrations.migrate` gives."""

from alembic import context

from otahsm.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
