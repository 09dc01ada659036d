#!/opt/weft/bin/python
"""Whether the daemon of this container answers on its metrics address, $WEFT_METRICS.

Exits 0 when it does, 1 with one line when it does not.
"""

import http.client
import os
import sys


def complaint(address: str) -> str | None:
    """What is wrong with the daemon behind an address; None when all is well."""
    host, _, port = address.rpartition(":")
    try:
        connection = http.client.HTTPConnection(host, int(port), timeout=4)
        connection.request("GET", "/metrics")
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{address} does not answer: {error}"
    return None if status == http.client.OK else f"{address} answers with status {status}"


if __name__ == "__main__":
    sys.exit(complaint(os.environ.get("WEFT_METRICS", "127.0.0.1:9400")))
