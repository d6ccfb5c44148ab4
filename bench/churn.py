#!/usr/bin/env python3
"""Resident memory over time while locks are taken and released: it has to stay where it is."""
import argparse
import subprocess
import time

import servers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--pipeline", type=int, default=4)
    parser.add_argument("--every", type=float, default=10, help="seconds between rows")
    parser.add_argument("--tolerance", type=float, default=10,
                        help="percent it may grow after the first quarter (default 10)")
    args = parser.parse_args()
    servers.prepare()
    nodes = servers.start_lockers(3)
    load = subprocess.Popen(
        [servers.LOCKER_BENCH, "--quiet", "--node", ",".join(n.address for n in nodes),
         "--connections", str(args.connections), "--pipeline", str(args.pipeline),
         "--seconds", str(args.minutes * 60)])
    rows, start = [], time.monotonic()
    print("| s | node 1 MiB | node 2 MiB | node 3 MiB |")
    print("| ---: | ---: | ---: | ---: |", flush=True)
    try:
        while load.poll() is None:
            for node in nodes:
                node.check()
            rows.append([n.rss_bytes() / 2**20 for n in nodes])
            print(f"| {time.monotonic() - start:.0f} | "
                  + " | ".join(f"{mib:.1f}" for mib in rows[-1]) + " |", flush=True)
            try:
                load.wait(args.every)
            except subprocess.TimeoutExpired:
                pass
    finally:
        if load.poll() is None:
            load.terminate()
            load.wait()
    for node in nodes:
        node.check()
    if load.returncode != 0:
        raise SystemExit(f"locker-bench ended with {load.returncode}")
    settled = rows[len(rows) // 4:]
    grown = max(last / first - 1 for first, last in zip(settled[0], settled[-1])) * 100
    print(f"\ngrown after the first quarter: {grown:.1f} %")
    if grown > args.tolerance:
        raise SystemExit(f"more than {args.tolerance:g} %")


if __name__ == "__main__":
    main()
