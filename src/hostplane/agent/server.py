"""The sockets: who may connect, one thread a connection, and when the process may end.

A peer is judged by the kernel's word on who it is, before a byte of it is read. A connection that is slow, silent, too
loud or gone costs its own thread and nothing else. The process ends when it was told to, when the host reboots, or when
it was started by socket activation and nothing is left to do; it never ends while something is under way.
"""

import logging
import os
import selectors
import socket
import threading
import time
from typing import Callable, Dict, List, Optional, Set, Tuple

from hostplane.errors import HostError, HostplaneError
from hostplane.rpc import endpoint, framing, messages

from . import journal
from .host import Host
from .native import Session

__all__ = ["Server", "inherited_sockets"]

_log = logging.getLogger("hostplane.agent")
_CONNECTIONS = 32
_REQUEST_SECONDS = 10.0  # from a request's first byte to its last, and for an answer to be taken
_DISCARD_SECONDS = 2.0
_LAST_ANSWERS_SECONDS = 2.0

Serve = Callable[[socket.socket], None]


def inherited_sockets() -> List[Tuple[str, socket.socket]]:
    """(name, socket) of what the service manager opened for us; nothing when it was not meant for this process."""
    if os.environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0") or 0)
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for index in range(count):
        os.set_inheritable(3 + index, False)
        name = names[index] if index < len(names) else ""
        found.append((name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=3 + index)))
    return found


class Server(object):
    """Answers on any number of listening sockets; each is given with the function that serves one connection of it."""

    def __init__(self, host: Host, idle_seconds: float) -> None:
        self._host, self._idle_seconds = host, idle_seconds
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._allowed = {0, os.geteuid()} | set(host.config.allowed_uids)
        self._lock = threading.Lock()
        self._open: Set[socket.socket] = set()
        self._threads: Dict[socket.socket, threading.Thread] = {}
        self._last_active = time.monotonic()

    def listen(self, listener: socket.socket, serve: Serve) -> None:
        """Serve what connects to `listener`."""
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, serve)

    def stop(self) -> None:
        """End `run`; from any thread or signal handler."""
        os.write(self._wake_writer, b".")

    def run(self) -> None:
        """Accept until stopped, or idle for the time given (0: never). Connections get a moment for their answers."""
        is_done = False
        while not is_done:
            ready = self._selector.select(self._idle_left())
            for key, _ in ready:
                if key.data is None:
                    is_done = True
                else:
                    self._accept(key.fileobj, key.data)  # type: ignore[arg-type]  # we registered sockets
            is_done = is_done or (not ready and self._is_idle())
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
        deadline = time.monotonic() + _LAST_ANSWERS_SECONDS
        with self._lock:
            leftover = list(self._threads.items())
        for sock, thread in leftover:
            try:
                sock.shutdown(socket.SHUT_RD)
            except OSError:
                pass
            thread.join(max(0.0, deadline - time.monotonic()))

    def _idle_left(self) -> Optional[float]:
        if not self._idle_seconds:
            return None
        if not self._host.is_idle:
            self._last_active = time.monotonic()
        return max(0.05, self._last_active + self._idle_seconds - time.monotonic())

    def _is_idle(self) -> bool:
        if not self._idle_seconds or not self._host.is_idle:
            return False
        return time.monotonic() - self._last_active >= self._idle_seconds

    def _accept(self, listener: socket.socket, serve: Serve) -> None:
        self._last_active = time.monotonic()
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        sock.setblocking(True)
        _, uid = endpoint.peer(sock)
        with self._lock:
            is_full = len(self._open) >= _CONNECTIONS
            if not is_full:
                self._open.add(sock)
        refusal = None
        if uid not in self._allowed:
            refusal = HostError("PeerRefused", uid=uid)
        elif is_full:
            refusal = HostError("ConnectionsFull", limit=_CONNECTIONS)
        if refusal is not None:
            journal.record("PeerRefused", "connection refused: %s" % refusal, logging.WARNING)
            framing.send(sock, messages.error_answer(None, refusal), 0.1)
            self._close(sock)
            return
        thread = threading.Thread(target=self._connection, args=(sock, serve), daemon=True)
        with self._lock:
            self._threads[sock] = thread
        thread.start()

    def _close(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.discard(sock)
            self._threads.pop(sock, None)
        sock.close()

    def _connection(self, sock: socket.socket, serve: Serve) -> None:
        try:
            serve(sock)
        except Exception:
            _log.exception("connection ended by a fault of ours")
        finally:
            self._close(sock)

    def serve_native(self, sock: socket.socket) -> None:
        """Many requests, each a line; ends when the peer does, or after a request that could not be read."""
        reader = framing.LineReader(sock, messages.REQUEST_LIMIT, _REQUEST_SECONDS)
        session = Session(self._host, endpoint.peer(sock)[1])
        while True:
            try:
                raw = reader.read()
            except HostError as fault:
                framing.send(sock, messages.error_answer(None, fault), _REQUEST_SECONDS)
                framing.discard(sock, _DISCARD_SECONDS)
                return
            if raw is None:
                return
            if not self._answer(sock, session, raw):
                return

    def _answer(self, sock: socket.socket, session: Session, raw: bytes) -> bool:
        self._last_active = time.monotonic()
        ident: messages.Id = None
        try:
            request = messages.parse_request(raw)
            ident = request.id
            if request.method == messages.WAIT:  # a reboot does not wait for those who only look on
                return self._send(sock, messages.result_answer(ident, session.call(request.method, request.params)))
            with self._host:
                return self._send(sock, messages.result_answer(ident, session.call(request.method, request.params)))
        except HostplaneError as fault:
            return self._send(sock, messages.error_answer(ident, fault))
        except Exception:
            _log.exception("request failed")
            return self._send(sock, messages.error_answer(ident, HostError("AgentFault")))

    def _send(self, sock: socket.socket, answer: bytes) -> bool:
        is_sent = framing.send(sock, answer, _REQUEST_SECONDS)
        self._last_active = time.monotonic()
        return is_sent
