#!/usr/bin/env python3
"""Waiting in line over all nodes: in the order of the requests, one at a time, and nobody who is
gone holds up the rest."""
import statistics
import time
import unittest

from harness import Client, Cluster, as_map, background, main

KEYS = 8
ROUNDS = 4


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
            gaps = []
            for k in range(KEYS):
                key, granted = f"line{k}", []
                with cluster[1].client() as holder:
                    holder.cmd("LOCK", key, "first", 60000)
                    joins = self.line_up(cluster, key, nodes, granted)
                    released = time.monotonic()
                    holder.cmd("RELEASE", key, "first")
                for join in joins:
                    join(60)
                self.assertEqual([name for name, *_ in granted],
                                 [f"{i}" for i in range(len(nodes))], key)
                tokens = [token for *_, token in granted]
                self.assertEqual(tokens, sorted(tokens))
                for _, taken, next_released, _ in granted:
                    self.assertGreaterEqual(taken, released)
                    gaps.append(taken - released)
                    released = next_released
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
