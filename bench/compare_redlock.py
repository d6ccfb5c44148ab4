#!/usr/bin/env python3
"""CPU time of all servers for one lock and release: three nodes of lockerd, and Redlock over three
Redis servers, with as many clients at once.

Servers run on core 0 (unless --spread), the client on core 1, in turns. The CPU time is that of the
three servers together, from /proc, divided by the locks that were granted.
"""
import argparse
import json
import os
import statistics
import subprocess

import servers


def measure_redlock(args, core):
    nodes = [servers.start_redis(core=core) for _ in range(3)]
    try:
        before = sum(n.cpu_seconds() for n in nodes)
        done = subprocess.run(servers.on_core(1, [
            servers.REDLOCK_BENCH, ",".join(n.address for n in nodes), args.seconds,
            args.clients]), capture_output=True, text=True, check=False)
        cpu = sum(n.cpu_seconds() for n in nodes) - before
        if done.returncode != 0:
            raise SystemExit(f"redlock-bench: {done.stderr}{done.stdout}")
        result = json.loads(done.stdout)
        if result["errors"] or not result["granted"]:
            raise SystemExit(f"redlock-bench: {result}")
        return row(cpu, result, result["granted"])
    finally:
        for node in nodes:
            node.stop()


def measure_locker(args, core):
    nodes = servers.start_lockers(3, core=core)
    try:
        before = sum(n.cpu_seconds() for n in nodes)
        result = servers.locker_bench(
            nodes, "--connections", args.clients, "--warmup", 0, "--seconds", args.seconds, core=1)
        cpu = sum(n.cpu_seconds() for n in nodes) - before
        if not result["granted"]:
            raise SystemExit(f"locker-bench: {result}")
        return row(cpu, result, result["granted"])
    finally:
        for node in nodes:
            node.stop()


def row(cpu, result, granted):
    return {"cpu_us": cpu / granted * 1e6, "rate": granted / result["seconds"],
            "refused": result["refused"] / (granted + result["refused"]),
            "lock_p50": result["lock_us"]["p50"], "lock_p99": result["lock_us"]["p99"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--spread", action="store_true", help="servers on any core")
    args = parser.parse_args()
    servers.prepare("bench")
    if os.cpu_count() < 2:
        raise SystemExit("needs two cores: one for the servers, one for the client")
    if not servers.REDLOCK_BENCH.exists():
        raise SystemExit(f"no {servers.REDLOCK_BENCH}: was hiredis there when it was built?")
    core = None if args.spread else 0
    kinds = {"Redlock, 3 Redis": measure_redlock, "locker, 3 nodes": measure_locker}
    runs = {kind: [] for kind in kinds}
    for number in range(args.rounds):
        for kind, measure in kinds.items():
            servers.progress(f"round {number + 1}: {kind}")
            runs[kind].append(measure(args, core))
    print("| servers | CPU us/cycle | cycles/s | refused | lock p50 us | lock p99 us |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    cpu = {}
    for kind in kinds:
        m = {name: statistics.median(run[name] for run in runs[kind]) for name in runs[kind][0]}
        cpu[kind] = m["cpu_us"]
        print(f"| {kind} | {m['cpu_us']:.2f} | {m['rate']:.0f} | {m['refused']:.3%} "
              f"| {m['lock_p50']:.0f} | {m['lock_p99']:.0f} |")
    redlock, locker = (cpu[kind] for kind in kinds)
    print(f"\nServer CPU per lock and release, locker/Redlock: {locker / redlock:.2f}")


if __name__ == "__main__":
    main()
