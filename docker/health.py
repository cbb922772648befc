"""Whether a container does its work: exit status 0 or 1, as Docker's healthchecks want it. Standard library only.

python docker/health.py http://127.0.0.1:8471/state     answers with 200
python docker/health.py /var/lib/…/logger.json 30       was written within the last 30 seconds
"""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def problem(what: str, most_s: float) -> str | None:
    """Why it is not well; None where it is."""
    if what.startswith("http://"):
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(what, timeout=4) as answer:
                return None if answer.status == 200 else f"{what} answers {answer.status}"
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            return f"{what}: {error}"
    try:
        age = time.time() - Path(what).stat().st_mtime
    except OSError as error:
        return f"{what}: {error.strerror}"
    return None if age <= most_s else f"{what} was written {age:.0f} s ago; {most_s:g} s are allowed"


if __name__ == "__main__":
    found = problem(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    if found is not None:
        print(found)
    sys.exit(found is not None)
