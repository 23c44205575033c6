"""Runs command lines in processes that are killed: ``python -m tests.cli.commander``.

A line of stdin is a JSON list: arguments, the path of a file, and after how many seconds to kill the command
(null: never). A forked child runs it and writes its output to the file; the exit status goes to stdout.
All modules are imported before the fork, so that the kill interrupts the command and not the startup.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys

from basicauth_mw.cli.app import run


def main() -> None:
    for line in sys.stdin:
        *arguments, path, killed_after_s = json.loads(line)
        pid = os.fork()
        if pid == 0:
            output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os._exit(run(arguments))
        if killed_after_s is not None:
            ends = os.pidfd_open(pid)
            if not select.select([ends], [], [], killed_after_s)[0]:
                os.kill(pid, signal.SIGKILL)  # it may have ended already, but os.waitpid was not called yet
            os.close(ends)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
