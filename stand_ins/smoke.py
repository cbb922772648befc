"""`make smoke-gcp PROJECT=…`: what the stand-ins believe, asked of a real project. A few cents; cleans up after itself.

Without a project or credentials it says so and is content. Needs the APIs BigQuery, Pub/Sub, Cloud Storage and
Vertex AI, and an account that may make things: roles/editor on a project for tests is enough.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError
from rl_core.google_cloud.clients import GoogleClients
from stand_ins.beliefs import BELIEFS, Belief, Scratch

_YAML = Path(__file__).resolve().parent.parent / "dags" / "bandits" / "movielens.yaml"


def scratch_bandit(project: str, region: str, image: str | None) -> Bandit:
    """A bandit whose artefacts are nobody else's."""
    google = {"project": project, "region": region} | ({"image": image} if image else {})
    shipped = Bandit.from_yaml(_YAML).model_dump(mode="json")
    prefix = f"smoke-{uuid.uuid4().hex[:8]}"
    return Bandit.from_json(json.dumps({**shipped, "prefix": prefix, "backend": "gcp", "google": google}))


def verdicts(scratch: Scratch, beliefs: tuple[Belief, ...]) -> Iterator[dict[str, object]]:
    for belief in beliefs:
        began = time.perf_counter()
        said: dict[str, object] = {"service": belief.service, "belief": belief.statement, "holds": True}
        try:
            said["note"] = belief.check(scratch) or ""
        except Exception as error:  # whatever it is: the belief did not hold, and the others are asked too
            said |= {"holds": False, "note": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        yield {**said, "seconds": round(time.perf_counter() - began, 1)}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stand_ins.smoke", description=__doc__)
    parser.add_argument("--project", help="of Google Cloud; without it nothing is asked")
    parser.add_argument("--region", default="europe-west1")
    parser.add_argument("--image", help="the job image by digest; without it no pipeline is run to its end")
    parser.add_argument("--service", action="append", choices=sorted({b.service for b in BELIEFS}), help="only these")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)
    if not args.project:
        print("skipped: no project named; make smoke-gcp PROJECT=my-project [REGION=…] [IMAGE=…@sha256:…]")
        return 0
    clients = GoogleClients(scratch_bandit(args.project, args.region, args.image), Settings.from_environment())
    try:
        _ = clients.credentials
    except BanditError as error:
        print(f"skipped: {error}")
        return 0
    beliefs = tuple(belief for belief in BELIEFS if not args.service or belief.service in args.service)
    failed = 0
    with Scratch(clients) as scratch:
        for said in verdicts(scratch, beliefs):
            failed += not said["holds"]
            mark = "holds" if said["holds"] else "DOES NOT HOLD"
            plain = f"{mark:13}  {said['service']:8}  {said['seconds']:>6} s  {said['belief']}  {said['note']}"
            print(json.dumps(said) if args.json else plain.rstrip(), flush=True)
    for left in scratch.left_behind:
        print(f"left behind: {left}", file=sys.stderr)
    clients.close()
    return 1 if failed or scratch.left_behind else 0


if __name__ == "__main__":
    raise SystemExit(main())
