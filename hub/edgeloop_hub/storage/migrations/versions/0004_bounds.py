"""what devices say is their own source and counts by rows and bytes; facts such as the last tick"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "facts",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_facts")),
    )
    op.add_column("devices", sa.Column("quota_rows", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("devices", sa.Column("quota_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("samples", sa.Column("unpacked", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("samples", sa.Column("truth", sa.String(length=200), nullable=False, server_default=""))
    _own_words()


def _own_words() -> None:
    """Labels that a device gave its samples stood among those of people, under the name device."""
    names = ("device", "key", "person", "label")
    labels = sa.table("labels", *(sa.column(name) for name in names))
    samples = sa.table("samples", *(sa.column(name) for name in ("device", "key", "truth")))
    here = op.get_bind()
    said = sa.select(labels.c.device, labels.c.key, labels.c.label).where(labels.c.person == "device")
    for device, key, label in here.execute(said).all():
        this = sa.and_(samples.c.device == device, samples.c.key == key)
        here.execute(sa.update(samples).where(this).values(truth=label))
    here.execute(sa.delete(labels).where(labels.c.person == "device"))
