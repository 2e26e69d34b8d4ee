"""Access: users and passwords, wired to the running server: configuration, connections, CONFIG, reload."""

from __future__ import annotations

import secrets
from pathlib import Path

from server.acl import Acl
from server.acl_rules import User
from server.config import ServerConfig
from server.data_file import DataFile
from server.net.connection import Peers
from server.session import Session
from server.settings import Setting, whole_number


class Access:
    """Builds the Acl and lets it see who is connected."""

    __slots__ = ("_password", "_path", "_peers", "acl")

    def __init__(self, config: ServerConfig, peers: Peers) -> None:
        # CONFIG REWRITE writes it; CONFIG GET tells whether there is one.
        self._password = config.password
        self._path = config.acl_file
        self._peers = peers
        file = DataFile(Path(config.acl_file)) if config.acl_file else None
        self.acl = Acl(config.password, config.acl_file, file, secrets.token_bytes)
        self.acl.clients = self._sessions
        self.acl.limit_log(config.acllog_max_len)

    def _sessions(self) -> list[Session]:
        return [connection.session for connection in self._peers.by_id.values()]

    async def open(self) -> None:
        """Put the users of the file in force. ConfigError: it cannot be used."""
        self.acl.adopt(await self.acl.read(), None)

    def reload(self, config: ServerConfig, users: dict[bytes, User] | None) -> None:
        """SIGHUP: the password of the configuration, and the users that `Acl.read` has found in the file."""
        self._set_password(config.password)
        self.acl.limit_log(config.acllog_max_len)
        self.acl.adopt(users, None)

    def settings(self) -> list[Setting]:
        """What CONFIG may ask and change."""
        return [
            Setting("requirepass", lambda: self._password, str, self._set_password),
            Setting("aclfile", lambda: self._path),
            Setting("acllog-max-len", lambda: str(self.acl.max_log), whole_number(0, 1_000_000), self._limit_log),
            # A new user hears no channel, and nothing changes that.
            Setting("acl-pubsub-default", lambda: "resetchannels"),
        ]

    def _set_password(self, value: object) -> None:
        self._password = str(value)
        self.acl.set_password(self._password)

    def _limit_log(self, value: object) -> None:
        assert isinstance(value, int)
        self.acl.limit_log(value)
