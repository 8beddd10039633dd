"""The doors to the database, with all knowledge of its dialect behind them.

``unit_of_work`` and ``atomically`` change, ``snapshot`` reads, ``configure`` chooses the database
for an application that does not use the environment.
"""

from tbpay.database.dialects import contains, insert_if_absent
from tbpay.database.engines import close
from tbpay.database.location import File, Location, Server, locate
from tbpay.database.units import (
    atomically,
    configure,
    connection,
    location,
    reset,
    snapshot,
    unit_of_work,
)

__all__ = [
    "File",
    "Location",
    "Server",
    "atomically",
    "close",
    "configure",
    "connection",
    "contains",
    "insert_if_absent",
    "locate",
    "location",
    "reset",
    "snapshot",
    "unit_of_work",
]
