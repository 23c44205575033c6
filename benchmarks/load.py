"""Loads several servers at once from one process, and reads what CPU time their processes took meanwhile.

A closed loop: so many connections to each server, one request at a time on each, as fast as it answers. Run
as a program it reads a job from stdin, as JSON, and writes what it counted to stdout; see ``run``.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

WARM_UP_S = 0.5
_LENGTH = b"\r\ncontent-length:"


@dataclass
class Target:
    """A server to load.

    Attributes:
        port: Of 127.0.0.1.
        pids: Its processes.
        authorization: Sent with each request; empty: none.
        status: What every answer has to have.
    """

    port: int
    pids: list[int]
    authorization: str = ""
    status: int = 200


@dataclass
class Load:
    """What one target did.

    Attributes:
        requests: Answered.
        cpu_s: That its processes took for them.
        seconds: That it took.
    """

    requests: int
    cpu_s: float
    seconds: float

    @property
    def cpu_per_request_s(self) -> float:
        return self.cpu_s / self.requests


def run(targets: list[Target], *, seconds: float, connections: int, core: int) -> list[Load]:
    """Load targets at once, from a process of its own on a core of its own.

    Raises:
        RuntimeError: A server broke a connection, or gave another answer.
    """
    job = {"targets": [asdict(target) for target in targets], "seconds": seconds, "connections": connections}
    done = subprocess.run(
        [sys.executable, Path(__file__)],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return [Load(**load) for load in json.loads(done.stdout)]


def cpu_s(pids: list[int]) -> float:
    """CPU seconds that other processes have taken, to the nanosecond, where /proc has hundredths."""
    # The number of another process's CPU clock, as clock_getcpuclockid(3) of Linux makes it.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


class Connection:
    """One connection, with one request under way."""

    def __init__(self, place: int, target: Target) -> None:
        self.place = place
        self.status = b"%d" % target.status
        authorization = f"Authorization: {target.authorization}\r\n" if target.authorization else ""
        self.request = (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nAccept: */*\r\n{authorization}\r\n"
        ).encode()
        self.socket = socket.create_connection(("127.0.0.1", target.port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def send(self) -> None:
        self.socket.sendall(self.request)

    def is_answered(self) -> bool:
        """Take what has come; tell whether the answer is whole now."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        self.received += chunk
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return False
        if head[9:12] != self.status:
            raise ConnectionError(f"the server answered {head[:40]!r}")
        line = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0]
        if len(body) < int(line):
            return False
        self.received = b""
        return True


@dataclass
class RefusalStats:
    answered: list[int]
    cpu: list[float] = field(default_factory=list)
    at: float = 0.0

    def taken(self, targets: list[Target]) -> RefusalStats:
        return RefusalStats(list(self.answered), [cpu_s(target.pids) for target in targets], time.monotonic())


def load(targets: list[Target], *, seconds: float, connections: int) -> list[Load]:
    poll = select.epoll()
    open_: dict[int, Connection] = {}
    for _ in range(connections):
        for place, target in enumerate(targets):
            connection = Connection(place, target)
            poll.register(connection.socket, select.EPOLLIN)
            open_[connection.socket.fileno()] = connection
    for connection in open_.values():
        connection.send()
    counts = RefusalStats([0] * len(targets))

    def go_on(until: float) -> None:
        answered = counts.answered
        while time.monotonic() < until:
            ready = poll.poll(10)
            if not ready:
                raise ConnectionError("no server answers")
            for descriptor, _ in ready:
                connection = open_[descriptor]
                if connection.is_answered():
                    answered[connection.place] += 1
                    connection.send()

    go_on(time.monotonic() + WARM_UP_S)
    before = counts.taken(targets)
    go_on(before.at + seconds)
    after = counts.taken(targets)
    for connection in open_.values():  # no server is left with an answer that nobody takes
        while not connection.is_answered():
            pass
        connection.socket.close()
    return [
        Load(
            after.answered[place] - before.answered[place],
            after.cpu[place] - before.cpu[place],
            after.at - before.at,
        )
        for place in range(len(targets))
    ]


def main() -> None:
    job = json.load(sys.stdin)
    loads = load(
        [Target(**target) for target in job["targets"]],
        seconds=job["seconds"],
        connections=job["connections"],
    )
    json.dump([asdict(load) for load in loads], sys.stdout)


if __name__ == "__main__":
    main()
