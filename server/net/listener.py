"""Listener: the sockets that clients connect to, and who is let in."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import cast

from protocol.replies import Error
from server import errors
from server.commands.context import Server
from server.config import ServerConfig
from server.net.addresses import cannot_listen
from server.net.connection import Connection, Peers
from server.session import Session

log = logging.getLogger("forebay.net")

_BACKLOG = 511


class _Refusal(asyncio.Protocol):
    """A connection that is told why it is not served, and closed."""

    def __init__(self, error: Error) -> None:
        self._error = error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        transport.write(self._error.wire)
        transport.close()


class _Entrance(asyncio.Protocol):
    """Looks at the peer of a TCP connection before a session is made for it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._listener.admit(transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class Listener:
    """All listening sockets of the server."""

    def __init__(self, config: ServerConfig, peers: Peers, server: Server, now_ms: Callable[[], int]) -> None:
        self.config = config
        self.peers = peers
        self.server = server
        self.max_clients = config.max_clients
        self._now_ms = now_ms
        self._next_id = 0
        self._servers: list[asyncio.Server] = []
        # Every address that clients can connect to, as printed in the `ready` line.
        self.addresses: list[str] = []
        self.port = 0

    async def open(self) -> None:
        """Listen on every configured address; raises OSError naming the one that cannot be had."""
        loop = asyncio.get_running_loop()
        port = self.config.port
        for address in self.config.bind:
            try:
                server = await self._listen(address, port)
            except OSError as error:
                raise cannot_listen(f"{address}:{port}", error) from error
            self._servers.append(server)
            for sock in server.sockets:
                name = sock.getsockname()
                # With port 0 the first address chooses, the others follow.
                port = name[1]
                self.addresses.append(f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}")
        self.port = port
        path = self.config.unix_socket
        if path:
            _remove_stale_socket(path)
            try:
                server = await loop.create_unix_server(self._enter, path, backlog=_BACKLOG)
            except OSError as error:
                raise cannot_listen(path, error) from error
            os.chmod(path, self.config.unix_socket_mode)
            self._servers.append(server)
            self.addresses.append(f"unix:{path}")

    async def _listen(self, address: str, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if not _is_numeric(address):
            return await loop.create_server(self._enter, address, port, backlog=_BACKLOG, reuse_address=True)
        # The event loop would start threads to look up even what is no name, and with threads a write costs more.
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.create_server((address, port), family=family, backlog=_BACKLOG)
        return await loop.create_server(self._enter, sock=sock, backlog=_BACKLOG)

    def close(self) -> None:
        """Stop accepting; connections stay."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    def remove_socket(self) -> None:
        """Remove the unix socket's file, after the last connection."""
        if self.config.unix_socket and os.path.exists(self.config.unix_socket):
            os.unlink(self.config.unix_socket)

    def _enter(self) -> asyncio.Protocol:
        return _Entrance(self)

    def admit(self, transport: asyncio.BaseTransport) -> asyncio.Protocol:
        """The protocol that serves a new connection: a session, or a refusal."""
        peer = transport.get_extra_info("peername")
        if len(self.peers.by_id) >= self.max_clients:
            self.peers.rejected += 1
            return _Refusal(errors.MAX_CLIENTS)
        if self.config.protected_mode and not self.server.password_is_set() and _is_foreign(peer):
            self.peers.rejected += 1
            return _Refusal(errors.PROTECTED)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.config.tcp_keepalive_s:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                idle = max(1, int(self.config.tcp_keepalive_s))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // 3))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        self._next_id += 1
        session = Session(self.server, self._next_id, self.server.keyspace.database(0))
        connection = Connection(self.peers, session, self._now_ms())
        session.outlet = connection
        return connection


def _is_numeric(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _is_foreign(peer: object) -> bool:
    if not isinstance(peer, tuple):
        return False
    try:
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_loopback


def _remove_stale_socket(path: str) -> None:
    # A socket left by a crash is removed; one that somebody answers on, or another kind of file, is not ours.
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        # Connecting would not tell: it is refused by any file.
        raise OSError(errno.EEXIST, f"cannot listen on {path}: it exists and is no socket")
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.settimeout(0.5)
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError as error:
        raise OSError(error.errno, f"{path} exists and is not a socket of ours: {error.strerror}") from error
    else:
        raise OSError(errno.EADDRINUSE, f"{path} is in use by another process")
    finally:
        probe.close()
