"""Asks a server for /health again and again, in a process of its own, until its input ends.

`health_watch.py PORT PID` then prints the number of answers, the longest time that one took, and
the most time of processors that the server's process PID used meanwhile, in seconds. Other
processes' threads do not hold it up.
"""

from __future__ import annotations

import json
import select
import sys
import time
from http.client import HTTPConnection

from psutil import Process

PAUSE = 0.02  # seconds between two questions


def used(server: Process) -> float:
    times = server.cpu_times()
    return float(times.user + times.system)


def main(port: int, server: Process) -> None:
    answers, longest, most = 0, 0.0, 0.0
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        began, before = time.perf_counter(), used(server)
        connection = HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        longest = max(longest, time.perf_counter() - began)
        most = max(most, used(server) - before)
        answers += 1
    print(json.dumps({"answers": answers, "longest": longest, "used": most}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Process(int(sys.argv[2])))
