"""Load one or more servers from one process, and measure the CPU time of their processes meanwhile.

A closed loop: each connection sends its next request when the previous one is answered. ``run`` starts this
file as a program, which reads a job as JSON from stdin and writes its counts to stdout.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

WARM_UP_S = 0.2
LIMIT_S = 30.0  # for one response
_LENGTH = b"\r\ncontent-length:"


@dataclass
class Target:
    """A server to load.

    Attributes:
        port: On 127.0.0.1.
        pids: The processes whose CPU time counts.
        fields: Values of the header that are sent in turn; empty for none.
        status: The expected status of every response.
        header: The name of the header.
    """

    port: int
    pids: list[int]
    fields: list[str]
    status: int = 200
    header: str = "Authorization"


@dataclass
class Load:
    """What one target did.

    Attributes:
        requests: Number of responses.
        cpu_s: CPU time of its processes.
    """

    requests: int
    cpu_s: float

    @property
    def cpu_per_request_s(self) -> float:
        return self.cpu_s / self.requests


def run(
    targets: list[Target],
    *,
    seconds: float,
    connections: int,
    core: int,
    address: str = "127.0.0.1",
    at_least: int = 1,
) -> list[Load]:
    """Load targets at the same time, from a separate process.

    Args:
        targets: What to load.
        seconds: How long to measure, after a warm-up.
        connections: To each target.
        core: The core of the load generator.
        address: The client's address; each connection to a target uses the next one.
        at_least: Measure longer if there are fewer responses.

    Raises:
        RuntimeError: A server closed a connection, or sent another status.
    """
    job = {
        "targets": [asdict(target) for target in targets],
        "seconds": seconds,
        "connections": connections,
        "address": address,
        "at_least": at_least,
    }
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
    """CPU seconds of other processes, to the nanosecond; /proc has hundredths of a second."""
    # The ID of another process's CPU clock, as clock_getcpuclockid(3) computes it on Linux.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


class Connection:
    """One connection, with one request in flight."""

    def __init__(self, index: int, target: Target, address: str) -> None:
        self.index = index
        self.status = b"%d" % target.status
        lines = [f"{target.header}: {field}\r\n" for field in target.fields] or [""]
        start = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nAccept: */*\r\n"
        self.requests = cycle([f"{start}{line}\r\n".encode() for line in lines])
        self.socket = socket.create_connection(
            ("127.0.0.1", target.port), timeout=LIMIT_S, source_address=(address, 0)
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def send(self) -> None:
        self.socket.sendall(next(self.requests))

    def receive(self) -> bool:
        """Read what has arrived; return whether the response is complete."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        self.received += chunk
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return False
        if head[9:12] != self.status:
            raise ConnectionError(f"the server responded with {self.received[:300]!r}")
        length = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0]
        if length:
            if len(body) < int(length):
                return False
        elif not body.endswith(b"0\r\n\r\n"):  # chunked
            return False
        self.received = b""
        return True


def load(
    targets: list[Target], *, seconds: float, connections: int, address: str, at_least: int
) -> list[Load]:
    poll = select.epoll()
    open_: dict[int, Connection] = {}
    prefix, _, last = address.rpartition(".")
    for number in range(connections):
        for index, target in enumerate(targets):
            connection = Connection(index, target, f"{prefix}.{int(last) + number}")
            poll.register(connection.socket, select.EPOLLIN)
            open_[connection.socket.fileno()] = connection
    for connection in open_.values():
        connection.send()
    answered = [0] * len(targets)

    def send_until(end: float, counts: list[int]) -> None:
        while time.monotonic() < end or min(answered) < min(counts):
            ready = poll.poll(LIMIT_S)
            if not ready:
                raise ConnectionError("no server responds")
            for descriptor, _ in ready:
                connection = open_[descriptor]
                if connection.receive():
                    answered[connection.index] += 1
                    connection.send()

    send_until(time.monotonic() + WARM_UP_S, [1])
    before, cpu_before = list(answered), [cpu_s(target.pids) for target in targets]
    send_until(time.monotonic() + seconds, [count + at_least for count in before])
    loads = [
        Load(answered[index] - before[index], cpu_s(target.pids) - cpu_before[index])
        for index, target in enumerate(targets)
    ]
    for connection in open_.values():  # leave no server with a response that is not read
        while not connection.receive():
            pass
        connection.socket.close()
    return loads


def main() -> None:
    job = json.load(sys.stdin)
    targets = [Target(**target) for target in job.pop("targets")]
    json.dump([asdict(each) for each in load(targets, **job)], sys.stdout)


if __name__ == "__main__":
    main()
