"""A TCP proxy in front of a server that simulates network faults."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from typing import Literal, Self

LIMIT_S = 10.0

NetworkFault = Literal["none", "cut", "half-open", "truncated", "garbage", "byte-by-byte"]


class Forwarder:
    """Forwards connections from its own port on 127.0.0.1 to another one. Use as a context manager.

    Args:
        to: The other port.

    Attributes:
        port: The port that it listens on.
        to: The port to which new connections are forwarded.
        network_fault: The current fault. ``cut``: open and new connections are closed. ``half-open``:
            connections are accepted and never closed, but forward nothing, even after the fault ends.
            ``truncated``: half of a reply is sent, then the connection is closed. ``garbage``: the reply is
            replaced by random bytes. ``byte-by-byte``: each byte of a reply is sent separately.
        delay_s: The delay of each part of a reply, in seconds.
        accepted: The number of connections so far.
    """

    def __init__(self, to: int) -> None:
        self.to = to
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._network_fault: NetworkFault = "none"
        self.delay_s = 0.0
        self.accepted = 0
        self._random = random.Random(20260101)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._dead: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.delay_s = 0.0
        self._hang_up()
        for thread in self._threads:
            thread.join(LIMIT_S)
        self._listener.close()

    @property
    def network_fault(self) -> NetworkFault:
        return self._network_fault

    @network_fault.setter
    def network_fault(self, fault: NetworkFault) -> None:
        self._network_fault = fault
        if fault == "cut":
            self._hang_up()
        if fault == "half-open":
            with self._lock:
                self._dead |= self._open

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _hang_up(self) -> None:
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.accepted += 1
                if self._network_fault == "cut":
                    near.close()
                    continue
                with self._lock:
                    self._open.add(near)
                    if self._network_fault == "half-open":
                        self._dead.add(near)
                self._start(self._serve, near)

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self.to)) as far:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pump, args=(far, near, True))
            back.start()
            self._pump(near, far, False)
            back.join(LIMIT_S)
        with self._lock:
            self._open.discard(near)
            self._dead.discard(near)

    def _pump(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if {source, target} & self._dead:
                    continue
                if is_reply:
                    if self.delay_s:
                        time.sleep(self.delay_s)
                    if {source, target} & self._dead:
                        continue
                    data = self._changed(data, target)
                target.sendall(data)
                if is_reply and self._network_fault == "truncated":
                    break
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _changed(self, data: bytes, target: socket.socket) -> bytes:
        match self._network_fault:
            case "garbage":
                return self._random.randbytes(len(data))
            case "truncated":
                return data[: len(data) // 2]
            case "byte-by-byte":
                for index in range(len(data)):
                    target.sendall(data[index : index + 1])
                return b""
            case _:
                return data
