"""labels of whole recordings; random samples by lot"""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def lot(device: str, key: str) -> float:
    """As `samples.accuracy.lot` was when this migration was written: a migration never follows later code."""
    return int.from_bytes(hashlib.sha256(f"{device}/{key}".encode()).digest()[:6]) / 2**48


def upgrade() -> None:
    op.add_column("samples", sa.Column("lot", sa.Float(), nullable=False, server_default="0"))
    samples = sa.table("samples", sa.column("device"), sa.column("key"), sa.column("lot"))
    here = op.get_bind()
    for device, key in here.execute(sa.select(samples.c.device, samples.c.key)).all():
        this = sa.and_(samples.c.device == device, samples.c.key == key)
        here.execute(sa.update(samples).where(this).values(lot=lot(device, key)))
    op.create_index(op.f("ix_samples_random_lot"), "samples", ["random", "lot"], unique=False)
    op.create_table(
        "recordings",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("recording", sa.String(length=200), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("person", sa.String(length=63), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("released", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("device", "recording", "model", "person", name=op.f("pk_recordings")),
    )
    op.create_index(op.f("ix_recordings_at"), "recordings", ["at"], unique=False)
