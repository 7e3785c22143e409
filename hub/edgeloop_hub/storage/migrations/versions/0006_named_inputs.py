"""samples of models with several inputs"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("samples", sa.Column("input", sa.String(200), nullable=False, server_default=""))
    op.add_column("samples", sa.Column("others", sa.LargeBinary))
