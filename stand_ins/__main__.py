"""`python -m stand_ins`: every stand-in on fixed ports, until stopped; what is kept lies in the folder."""

from __future__ import annotations

import argparse
import shutil
import signal
import threading
from pathlib import Path

from stand_ins.cloud import Cloud


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stand_ins", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("var/stand_ins"), help="where everything is kept")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--rest-port", type=int, default=0, help="BigQuery, Cloud Storage and administration")
    parser.add_argument("--pubsub-port", type=int, default=0, help="Pub/Sub")
    parser.add_argument("--vertex-proxy-port", type=int, default=0, help="the proxy in front of Vertex AI")
    parser.add_argument("--project", default="test-project", help="the one project that exists")
    parser.add_argument("--region", default="europe-west1", help="the one region Vertex AI is in")
    parser.add_argument("--ca", type=Path, help="where to copy the certificate authority that clients have to trust")
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ports = {"rest": args.rest_port, "pubsub": args.pubsub_port, "vertex": args.vertex_proxy_port}
    runs = {"BANDIT_HOME": str((args.folder / "home").absolute())}
    with Cloud(args.folder, args.project, args.region, args.host, ports, runs=runs) as cloud:
        variables = cloud.environment()
        if args.ca is not None:
            shutil.copyfile(variables["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"], args.ca)
        for name, value in variables.items():
            print(f"export {name}={value}", flush=True)
        print("stand-ins are up; stop them with Ctrl-C", flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
