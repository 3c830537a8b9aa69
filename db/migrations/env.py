"""Alembic's entry: always online, on the connection that `Database.upgrade` hands over."""

from alembic import context

from slicewise.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # on SQLite too: `Database.upgrade` has begun a transaction
)
with context.begin_transaction():
    context.run_migrations()
