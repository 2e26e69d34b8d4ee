"""The whole command table: importing this module enters every command file into `spec.COMMANDS`."""

from __future__ import annotations

from server.commands import (
    cache,
    clients,
    command_docs,
    connection,
    hashes,
    keys,
    scan,
    server_admin,
    strings,
    transactions,
)
from server.commands.spec import COMMANDS

__all__ = ["COMMANDS", "MODULES"]

# In the order in which documentation lists the families.
MODULES = (strings, keys, scan, hashes, transactions, cache, connection, clients, command_docs, server_admin)
