#!/usr/bin/env python3
"""Resident memory per lease: takes many leases and looks at the three nodes that hold them."""
import argparse

import servers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, default=1000000)
    parser.add_argument("--key-bytes", type=int, default=16)
    parser.add_argument("--value-bytes", type=int, default=16)
    args = parser.parse_args()
    servers.prepare()
    nodes = servers.start_lockers(3, options=[
        "--max-leases", args.leases + args.leases // 4, "--max-lease", 3600000])
    before = [n.rss_bytes() for n in nodes]
    result = servers.locker_bench(
        nodes, "--workload", "hold", "--keys", args.leases, "--key-bytes", args.key_bytes,
        "--value-bytes", args.value_bytes, "--ttl", 3600000, "--connections", 8, "--pipeline", 32)
    if result["granted"] != args.leases:
        raise SystemExit(f"only {result['granted']} of {args.leases} were granted: {result}")
    payload = args.key_bytes + args.value_bytes
    print("| node | leases | RSS empty MiB | RSS held MiB | bytes/lease | over key and value |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for number, (node, empty) in enumerate(zip(nodes, before), 1):
        node.check()
        held = int(node.command("DBSIZE").lstrip(":"))
        rss = node.rss_bytes()
        each = (rss - empty) / max(held, 1)
        print(f"| {number} | {held} | {empty / 2**20:.1f} | {rss / 2**20:.1f} | {each:.1f} "
              f"| {each - payload:.1f} |")


if __name__ == "__main__":
    main()
