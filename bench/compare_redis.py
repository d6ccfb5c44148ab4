#!/usr/bin/env python3
"""CPU time of one node of lockerd and of one Redis for the same lock command, from the same client.

Each server runs alone on core 0, redis-benchmark on core 1, in turns. What is compared is the CPU
time the server used per command, from /proc; throughput depends on the client as well.
"""
import argparse
import csv
import io
import os
import statistics
import subprocess

import servers


def measure(start, requests, depth, clients):
    server = start()
    try:
        before = server.cpu_seconds()
        done = subprocess.run(servers.on_core(1, [
            "redis-benchmark", "-p", server.port, "-c", clients, "-n", requests, "-P", depth,
            "-r", 1000000000, "--csv",
            "SET", "key:__rand_int__", "v", "NX", "PX", 30000]),
            capture_output=True, text=True, check=False)
        cpu = server.cpu_seconds() - before
        server.check()
        if done.returncode != 0 or "rror" in done.stderr:
            raise SystemExit(f"redis-benchmark: {done.stderr}{done.stdout}")
        rate = float(list(csv.reader(io.StringIO(done.stdout)))[-1][1])
        if requests / rate > 25:
            raise SystemExit("took longer than a lease: the held locks no longer count the refused; "
                             "use a smaller --requests")
        held = int(server.command("DBSIZE").lstrip(":"))
        return {"cpu_us": cpu / requests * 1e6, "rate": rate, "refused": 1 - held / requests}
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=400000, help="at depth 1 (default 400000)")
    parser.add_argument("--factor", type=int, default=5,
                        help="so many times the requests when pipelined (default 5)")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--clients", type=int, default=50)
    args = parser.parse_args()
    servers.prepare("bench")
    if os.cpu_count() < 2:
        raise SystemExit("needs two cores: one for the server, one for the client")
    options = ["--max-leases", max(4000000, args.requests * args.factor * 2)]
    kinds = {"Redis": lambda: servers.start_redis(core=0),
             "locker": lambda: servers.start_lockers(1, core=0, options=options)[0]}
    print("| depth | server | CPU us/command | commands/s | refused |")
    print("| ---: | --- | ---: | ---: | ---: |")
    ratios = []
    for depth in args.depths:
        requests = args.requests * (args.factor if depth > 1 else 1)
        runs = {kind: [] for kind in kinds}
        for number in range(args.rounds):
            for kind, start in kinds.items():
                servers.progress(f"depth {depth}, round {number + 1}: {kind}")
                runs[kind].append(measure(start, requests, depth, args.clients))
        median = {kind: {name: statistics.median(run[name] for run in runs[kind])
                         for name in runs[kind][0]} for kind in kinds}
        for kind, m in median.items():
            print(f"| {depth} | {kind} | {m['cpu_us']:.3f} | {m['rate']:.0f} "
                  f"| {m['refused']:.3%} |")
        ratios.append((depth, median["locker"]["cpu_us"] / median["Redis"]["cpu_us"]))
    print()
    for depth, ratio in ratios:
        print(f"CPU per command, locker/Redis, depth {depth}: {ratio:.2f}")


if __name__ == "__main__":
    main()
