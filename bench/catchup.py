#!/usr/bin/env python3
"""How long a fresh replica, and a joining master, takes to have what three masters hold, and what
that costs their clients. Prints a Markdown table: seconds of `locker nodes set`, leases that the
new node has then, and p99 and longest latency of a steady load before and during it.

The newcomer gets the processor time that nobody else wants (SCHED_IDLE), as if it had a machine of
its own. With --compete it is scheduled like the masters: what its first touch of memory takes, 2 MB
zeroed at a time, then is what a master that shares a core with it waits for."""
import argparse
import multiprocessing
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

import servers


# ---- a steady load ----

def encode(*words):
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(w), w) for w in (str(word).encode() for word in words))


CONNECTIONS = 32


def one_of_many(number, address, rate, ended, seen):
    """Its share of the rate, at times of its own."""
    host, port = address.rsplit(":", 1)
    sock = socket.create_connection((host, int(port)), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    replies = sock.makefile("rb")
    due, i = time.monotonic() + number / rate, 0
    while not ended.is_set():
        time.sleep(max(0.0, due - time.monotonic()))
        key = f"steady{os.getpid()}.{number}.{i}"
        sock.sendall(encode("SET", key, "me", "NX", "PX", 30000))
        answer = replies.readline()
        granted = answer == b"+OK\r\n"
        if not granted:
            servers.progress(f"  {key} by {address} refused after {time.monotonic() - due:.3f} s: "
                             f"{answer.decode().strip()}")
        seen.append((due, time.monotonic() - due, granted))
        sock.sendall(encode("DELIFEQ", key, "me"))
        replies.readline()
        due += CONNECTIONS / rate
        i += 1


def be_steady(addresses, rate, pipe):
    """Lock and release @rate times a second, over many connections to all addresses, until there is
    something in the pipe; then send [(when it was due, seconds from then to the answer, granted)]
    of the locks."""
    ended, seen = threading.Event(), []
    threads = [threading.Thread(target=one_of_many, args=(
        i, addresses[i % len(addresses)], rate, ended, seen)) for i in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    pipe.recv()
    ended.set()
    for thread in threads:
        thread.join()
    pipe.send(seen)


class Steady:
    def __init__(self, nodes, rate):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=be_steady, args=([n.address for n in nodes], rate, theirs), daemon=True)
        self.process.start()

    def end(self):
        self.pipe.send("end")
        seen = self.pipe.recv()
        self.process.join()
        return seen


def figures(seen, begun, ended):
    """(p99, longest, refused) of those due between, in ms."""
    inside = sorted(took for due, took, _ in seen if begun <= due < ended)
    if not inside:
        raise SystemExit("catchup: no lock in that time: give a higher --rate")
    refused = sum(not granted for due, _, granted in seen if begun <= due < ended)
    return inside[len(inside) * 99 // 100] * 1000, inside[-1] * 1000, refused


# ---- changes ----

def set_nodes(node, masters, replicas, show=False):
    """`locker nodes set`; (when it began, when it ended). Its progress goes to stderr."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [servers.LOCKER, "--node", node.address, "nodes", "set", "--masters",
         ",".join(map(str, masters)), "--replicas", ",".join(map(str, replicas)) or "none",
         "--yes"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    for line in process.stdout:
        said.append(line)
        if show and line.startswith(("step ", "replica ")):
            servers.progress(f"  {time.monotonic() - begun:6.2f} s  {line.rstrip()}")
    if process.wait() != 0:
        raise SystemExit("catchup: nodes set failed: " + "".join(said))
    return begun, time.monotonic()


def yield_to_others(node):
    for thread in os.listdir(f"/proc/{node.process.pid}/task"):
        os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def round_of(nodes, number, role, args, options):
    """A row of the table."""
    node = servers.join_locker(nodes[0], number, options)
    if not args.compete:
        yield_to_others(node)
    steady = Steady(nodes, args.rate)
    time.sleep(2)
    before = time.monotonic()
    time.sleep(args.before)
    masters, replicas = [1, 2, 3], []
    (masters if role == "master" else replicas).append(number)
    servers.progress(f"node {number} becomes a {role}")
    begun, ended = set_nodes(nodes[0], masters, replicas, show=True)
    seen = steady.end()
    leases = int(node.info()["leases"])
    p99, _, early = figures(seen, before, begun)
    p99_during, longest, late = figures(seen, begun, ended)
    print(f"| {role} | {ended - begun:.2f} | {leases} | {p99:.2f} | {p99_during:.2f} "
          f"| {p99_during / p99:.2f} | {longest:.1f} | {early + late} |", flush=True)
    set_nodes(nodes[0], [1, 2, 3], [])
    node.check()
    node.stop()
    shutil.rmtree(pathlib.Path(servers.folder()) / f"joined{number}", ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, default=1000000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100, help="locks and releases a second")
    parser.add_argument("--before", type=float, default=10, help="seconds measured before")
    parser.add_argument("--compete", action="store_true",
                        help="the newcomer competes with the masters for the processors")
    args = parser.parse_args()
    servers.prepare()
    options = ["--max-leases", args.leases * 3 // 2, "--max-lease", 3600000]
    nodes = servers.start_lockers(3, ephemeral=False, options=options)
    result = servers.locker_bench(
        nodes, "--workload", "hold", "--keys", args.leases, "--ttl", 3600000,
        "--connections", 8, "--pipeline", 32)
    if result["granted"] != args.leases:
        raise SystemExit(f"only {result['granted']} of {args.leases} were granted: {result}")
    print(f"{args.rate:g} locks and releases a second, {os.cpu_count()} CPUs\n")
    print("| becomes | s | leases | p99 before ms | p99 during ms | ratio | longest ms | refused |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    number = 4
    for role in ("replica", "master"):
        for _ in range(args.rounds):
            round_of(nodes, number, role, args, options)
            number += 1
    for node in nodes:
        node.check()


if __name__ == "__main__":
    main()
