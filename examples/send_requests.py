"""Send requests to a gateway, one after the other, and count which response group each was given.

python examples/send_requests.py http://127.0.0.1:8080/v1 200
"""

import json
import sys
import time
from collections import Counter
from urllib.error import URLError
from urllib.request import Request, urlopen

PATIENCE_SECONDS = 60
"""For a gateway that is only starting."""


def ask(url: str, number: int) -> str:
    """The response group that the gateway chose for one chat request: it says so in a header."""
    body = {
        "model": "any",
        "messages": [{"role": "user", "content": f"What is {number} + {number}?"}],
        "max_tokens": 512,
    }
    request = Request(f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        answer.read()
        return answer.headers["x-ibpo-response-group"]


def wait_for(url: str) -> None:
    """Return when the gateway answers."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            urlopen(f"{url}/models", timeout=5).close()
            return
        except URLError as error:
            if time.monotonic() > end:
                sys.exit(f"no gateway at {url}: {error.reason}")
            time.sleep(0.2)


url, num_requests = sys.argv[1], int(sys.argv[2])
wait_for(url)
groups = Counter(ask(url, number) for number in range(num_requests))
num_extended = groups["extended"]
print(f"{num_requests} requests, {num_extended} with the extended group: {num_extended / num_requests:.0%}")
