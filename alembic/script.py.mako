"""${message}

Revision ${up_revision}, after ${down_revision or "nothing"}.
"""

# History never imports living code: ranges, words and shapes are written out here as they are
# today. Rows that are there already are looked at before anything is written. For a script
# (`--sql`) the database to look at, where there is one, is config.attributes["database"].

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = "${up_revision}"
down_revision = ${'"%s"' % down_revision if down_revision else None}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
