"""Alembic's entry: always with the connection that the hub opened."""

from alembic import context

from edgeloop_hub.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
