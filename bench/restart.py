#!/usr/bin/env python3
"""How long a killed master takes to vote again: three nodes hold many leases, one is killed and
started again, idle and while the others are under load. Prints a Markdown table: seconds from the
start of the process until it asks, until all slots vote, until it is in sync (`active`)."""
import argparse
import os
import signal
import subprocess
import sys
import time

import servers


def wait_for(condition, what, timeout=120):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"restart: never happened: {what}")
        time.sleep(0.01)


def restart(node, slots):
    """Kill and start @node; seconds to each stage, and what it took over."""
    os.kill(node.process.pid, signal.SIGKILL)
    node.process.wait()
    time.sleep(0.5)
    started = time.monotonic()
    node.start_again()
    stages = {}

    def passed(name, condition):
        if name not in stages and condition:
            stages[name] = time.monotonic() - started

    def look():
        try:
            fields = node.info()
        except OSError:
            return False
        passed("asks", fields.get("state") in ("resync", "active"))
        passed("votes", int(fields.get("slots_voting", 0)) == slots)
        passed("in sync", fields.get("state") == "active")
        return "in sync" in stages
    wait_for(look, "the node is active again")
    fields = node.info()
    return stages, int(fields["leases"]), int(fields["shadows"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, default=1000000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    servers.prepare()
    nodes = servers.start_lockers(3, ephemeral=False, options=[
        "--max-leases", args.leases * 3 // 2, "--max-lease", 3600000])
    result = servers.locker_bench(
        nodes, "--workload", "hold", "--keys", args.leases, "--ttl", 3600000,
        "--connections", 8, "--pipeline", 32)
    if result["granted"] != args.leases:
        raise SystemExit(f"only {result['granted']} of {args.leases} were granted: {result}")
    slots = int(nodes[0].info()["slots"])
    print("| load | asks s | all slots vote s | in sync s | leases | shadows |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for load in ("none", "50 clients"):
        for _ in range(args.rounds):
            bench = None
            if load != "none":
                bench = subprocess.Popen(
                    [str(servers.LOCKER_BENCH), "--node",
                     ",".join(n.address for n in nodes[:2]), "--seconds", "60", "--quiet"],
                    stdout=subprocess.DEVNULL)
                time.sleep(2)
            stages, leases, shadows = restart(nodes[2], slots)
            if bench is not None:
                bench.terminate()
                bench.wait()
            print(f"| {load} | {stages['asks']:.2f} | {stages['votes']:.2f} "
                  f"| {stages['in sync']:.2f} | {leases} | {shadows} |", flush=True)
    for node in nodes:
        node.check()


if __name__ == "__main__":
    main()
