#!/usr/bin/env python3
"""Waiting in line over all nodes: in the order of the requests, one at a time, and nobody who is
gone holds up the rest."""
import statistics
import time
import unittest
from collections import deque

from harness import Client, Cluster, Push, as_map, background, main

KEYS = 8
ROUNDS = 4
MANY = 10000
PASSED_ON = 300


def stand(address, key, name, wait_ms, granted):
    """Wait for the lock; hold it for a moment; note [name, asked, granted, released]."""
    with Client(address, timeout=wait_ms / 1000 + 30) as client:
        reply = client.cmd("LOCK", key, name, 30000, "WAIT", wait_ms)
        if reply is None:
            return
        taken = time.monotonic()
        grant = as_map(reply)
        time.sleep(0.002)
        released = time.monotonic()
        client.cmd("RELEASE", key, name, "TOKEN", grant[b"token"])
        granted.append((name, taken, released, grant[b"token"]))


def waiters_of(client):
    return as_map(client.cmd("SUMMARY"))[b"waiters"]


class Lines(unittest.TestCase):
    def line_up(self, cluster, key, nodes, granted, wait_ms=60000):
        """A waiter at each of @nodes, one after another, while somebody holds the key."""
        joins = []
        for i, node in enumerate(nodes):
            with node.client() as client:
                before = waiters_of(client)
                joins.append(background(
                    stand, node.address, key, f"{i}", wait_ms, granted))
                deadline = time.monotonic() + 20
                while waiters_of(client) == before:
                    self.assertLess(time.monotonic(), deadline, f"{key}: nobody waits at {node}")
                    time.sleep(0.002)
        return joins

    def test_in_the_order_of_the_requests(self):
        """Whichever master is the key's home, and from a node that is none."""
        with Cluster() as cluster:
            outsider = cluster.add_node(join=cluster[1])
            nodes = [outsider, cluster[2], cluster[1], outsider, cluster[3]] * ROUNDS
            gaps, in_time = [], 0
            for k in range(KEYS):
                key, granted = f"line{k}", []
                with cluster[1].client() as holder:
                    holder.cmd("LOCK", key, "first", 60000)
                    joins = self.line_up(cluster, key, nodes, granted)
                    released = time.monotonic()
                    holder.cmd("RELEASE", key, "first")
                for join in joins:
                    join(60)
                granted.sort(key=lambda grant: grant[1])
                tokens = [token for *_, token in granted]
                self.assertEqual(tokens, sorted(tokens))
                self.assertEqual(len(granted), len(nodes))
                here = []
                for _, taken, next_released, _ in granted:
                    self.assertGreaterEqual(taken, released)
                    here.append(taken - released)
                    released = next_released
                gaps += here
                # Who does not come within 100 ms is passed over; a busy machine can be so slow.
                if max(here) < 0.05:
                    in_time += 1
                    self.assertEqual([name for name, *_ in granted],
                                     [f"{i}" for i in range(len(nodes))], key)
            self.assertGreater(in_time, 0)
            print(f"\nrelease to grant over four nodes: median "
                  f"{statistics.median(gaps) * 1000:.2f} ms, longest {max(gaps) * 1000:.1f} ms")

    def test_who_is_gone_is_passed_over(self):
        """A client that hangs up, a node that is killed."""
        with Cluster() as cluster:
            outsiders = [cluster.add_node(join=cluster[1]) for _ in range(2)]
            granted = []
            with cluster[1].client() as holder:
                holder.cmd("LOCK", "k", "first", 60000)
                gone = outsiders[0].client()
                gone.send("LOCK", "k", "gone", 30000, "WAIT", 60000)
                killed = outsiders[1].client()
                killed.send("LOCK", "k", "killed", 30000, "WAIT", 60000)
                time.sleep(0.2)
                joins = self.line_up(cluster, "k", [cluster[2], cluster[3]], granted)
                gone.close()
                outsiders[1].kill()
                holder.cmd("RELEASE", "k", "first")
            for join in joins:
                join(60)
            self.assertEqual([name for name, *_ in granted], ["0", "1"])
            killed.close()

    def test_many_lines_on_few_connections(self):
        """ASYNC: many waiters of one key, and one of each of many keys, at every node."""
        with Cluster() as cluster:
            with cluster[1].client() as holder:
                holder.cmd("LOCK", "one", "first", 60000)
                for i in range(MANY):
                    holder.send("LOCK", f"k{i}", "first", 60000)
                for _ in range(MANY):
                    self.assertIsNotNone(holder.read())
                clients = [node.client(resp3=True, timeout=60) for node in cluster.nodes]
                for i in range(MANY):
                    for key in ("one", f"k{i}"):
                        clients[i % 3].send("LOCK", key, f"{i}", 60000, "WAIT", 60000, "ASYNC")
                ids = [[client.read() for _ in range(2 * len(range(at, MANY, 3)))]
                       for at, client in enumerate(clients)]
                self.assertEqual({reply[0] for replies in ids for reply in replies}, {b"QUEUED"})
                for i in range(MANY):
                    holder.send("RELEASE", f"k{i}", "first")
                for _ in range(MANY):
                    holder.read()
                for at, client in enumerate(clients):
                    granted = [client.read() for _ in range(at, MANY, 3)]
                    self.assertTrue(all(isinstance(push, Push) and push[0] == b"lock"
                                        and isinstance(push[2], dict) for push in granted))
                    self.assertEqual({push[1] for push in granted},
                                     {number for _, number in ids[at][1::2]})
                holder.cmd("RELEASE", "one", "first")
                turn = self.pass_on(holder, clients, ids)
                at = int(holder.cmd("WAITFOR", "one", 20000)) % 3
                turn[at].popleft()
                self.assertIsInstance(clients[at].read(), Push)
                for waiting, client in zip(turn, clients):
                    for _, number in waiting:
                        client.send("CANCEL", number)
                    self.assertEqual({client.read() for _ in waiting}, {1})
                    self.assertEqual(waiters_of(client), 0)
            for client in clients:
                client.close()

    def pass_on(self, holder, clients, ids):
        """@clients wait for "one": whose turn it is gives it back, in the order of each client."""
        turn = [deque((f"{i}", reply[1]) for i, reply in zip(range(at, MANY, 3), ids[at][0::2]))
                for at in range(3)]
        tokens = []
        for _ in range(PASSED_ON):
            at = int(holder.cmd("WAITFOR", "one", 20000)) % 3
            value, number = turn[at].popleft()
            push = clients[at].read()
            self.assertEqual(push[:2], [b"lock", number])
            tokens.append(push[2][b"token"])
            clients[at].cmd("RELEASE", "one", value)
        self.assertEqual(tokens, sorted(tokens))
        return turn

    def test_the_home_is_killed(self):
        """Each master once: the others know the line, or look for themselves."""
        for number in (1, 2, 3):
            with Cluster() as cluster:
                outsider = cluster.add_node(join=cluster[1])
                alive = cluster[1 if number != 1 else 2]
                granted = []
                with alive.client() as holder:
                    holder.cmd("LOCK", "k", "first", 60000)
                    joins = self.line_up(cluster, "k", [outsider, alive, outsider], granted)
                    cluster[number].kill()
                    holder.cmd("RELEASE", "k", "first")
                for join in joins:
                    join(60)
                self.assertEqual(sorted(name for name, *_ in granted), ["0", "1", "2"])


if __name__ == "__main__":
    main()
