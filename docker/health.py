"""Whether a container does its work: exit status 0 or 1, as Docker's healthchecks want it. Standard library only.

    python docker/health.py http://127.0.0.1:8471/state     answers with 200, to BANDIT_SERVER_TOKEN if that is set
    python docker/health.py /var/lib/…/logger.json@30       was written within the last 30 seconds
    python docker/health.py /shared/ca.pem                  is there

Several arguments: all of it.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def problem(what: str) -> str | None:
    """Why it is not well; None where it is."""
    return _of_url(what) if what.startswith("http://") else _of_file(*what.partition("@")[::2])


def _of_url(url: str) -> str | None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    token = os.environ.get("BANDIT_SERVER_TOKEN") if url.endswith("/state") else None  # the prediction server's alone
    shown = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with direct.open(urllib.request.Request(url, headers=shown), timeout=4) as answer:  # noqa: S310  http, as told
            return None if answer.status == 200 else f"{url} answers {answer.status}"
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        return f"{url}: {error}"


def _of_file(path: str, most_s: str) -> str | None:
    try:
        age = time.time() - Path(path).stat().st_mtime
    except OSError as error:
        return f"{path}: {error.strerror}"
    if most_s and age > float(most_s):
        return f"{path} was written {age:.0f} s ago; {most_s} s are allowed"
    return None


if __name__ == "__main__":
    problems = [found for what in sys.argv[1:] if (found := problem(what)) is not None]
    print("\n".join(problems))
    sys.exit(bool(problems))
