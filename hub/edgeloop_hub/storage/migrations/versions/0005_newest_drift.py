"""the newest drift report of each device is found without reading the others"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index(op.f("ix_drifts_device_at"), "drifts", ["device", "at"])
