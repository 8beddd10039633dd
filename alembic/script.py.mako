"""${message}

Revision ${up_revision}, after ${down_revision or "nothing"}.

History never imports living code: ranges, words and shapes are written out here as they are today.
Rows that are already there are looked at before anything is written. What looks at the database
cannot run offline (`--sql`): say what the script assumes instead.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
