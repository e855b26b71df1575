"""Asks a server for /health again and again, in a process of its own, until its input ends.

`health_watch.py PORT` then prints the number of answers and the longest time that one took, in
seconds. Other processes' threads do not hold it up.
"""

from __future__ import annotations

import json
import select
import sys
import time
from http.client import HTTPConnection

PAUSE = 0.02  # seconds between two questions


def main(port: int) -> None:
    answers, longest = 0, 0.0
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        began = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        longest = max(longest, time.perf_counter() - began)
        answers += 1
    print(json.dumps({"answers": answers, "longest": longest}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
