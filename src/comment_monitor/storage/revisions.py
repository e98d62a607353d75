"""The schema's revisions, read from the names of the migrations: a service need not import Alembic to know them."""

from pathlib import Path
from typing import Final

VERSIONS: Final = Path(__file__).parent / "migrations" / "versions"

# All revisions that this release knows, oldest first. Their history is one line, in the order of their names.
KNOWN: Final = tuple(sorted(file.name.partition("_")[0] for file in VERSIONS.glob("[0-9]*_*.py")))
HEAD: Final = KNOWN[-1]
# The oldest revision that this code works on. A release works on its own schema and on the one before (expand,
# then contract), because new pods run for a while before the migration does.
OLDEST_USABLE: Final = "008"
# A revision that this code does not know is newer than the code: the release that made it kept it usable for the
# release before. That is for the caller to decide; these are the known ones.
USABLE: Final = frozenset(revision for revision in KNOWN if revision >= OLDEST_USABLE)
