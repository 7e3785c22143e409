"""labels of whole recordings"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
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
