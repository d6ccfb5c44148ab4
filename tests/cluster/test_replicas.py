#!/usr/bin/env python3
"""Nodes that copy what the masters hold, answer from it, and coordinate."""
import time
import unittest

from harness import (Client, Cluster, RespError, as_map, background, eventually, main, node_rows,
                     sanitized)
from load import Load, say

SLOW_MS = 1000  # between two batches, so that a test can look in between


def replicated(options=None, **more):
    """Three masters and a replica, node 4."""
    cluster = Cluster(3, **{"attempt_time": 500, **(options or {})})
    try:
        replica = cluster.add_node(**more)
        reply = cluster.set_nodes((1, 2, 3), (4,))
        if reply != b"OK":
            raise AssertionError(f"SETNODES: {reply!r}")
        cluster.wait_copied(replica)
        return cluster
    except BaseException:
        cluster.show_logs()
        cluster.abandon()
        raise


def keys_of(client):
    """All keys that it has a copy of, by SCAN; None while it has no whole copy."""
    cursor, keys = b"0", set()
    while True:
        reply = client.cmd("SCAN", cursor, "COUNT", 500)
        if isinstance(reply, RespError) and reply.word == "NOTREADY":
            return None
        cursor, page = reply
        keys |= set(page)
        if cursor == b"0":
            return keys


class Case(unittest.TestCase):
    cluster = None

    def setUp(self):
        self.key = self.id().split(".")[-1]

    def connect(self, number, cluster=None, **more):
        client = Client((cluster or self.cluster)[number].address, **more)
        self.addCleanup(client.close)
        return client

    def replicated(self, options=None, **more):
        cluster = replicated(options, **more)
        self.addCleanup(cluster.abandon)
        return cluster

    def assertWord(self, reply, word):
        self.assertIsInstance(reply, RespError, f"expected {word}, got {reply!r}")
        self.assertEqual(reply.word, word, reply.text)

    def granted(self, reply):
        if reply is None or isinstance(reply, RespError):
            self.fail(f"not granted: {reply!r}")
        return as_map(reply)

    def copied(self, cluster, replica, timeout=60):
        """Until the replica has what all masters have, and nothing that none has: a master may lack
        what a majority was enough for. How many."""
        def same():
            held = []
            for node in cluster.founders:
                with node.client() as master:
                    held.append(keys_of(master))
            copy = keys_of(replica)
            if copy is None or None in held:
                return None
            return set.intersection(*held) <= copy <= set.union(*held) and (len(copy), "keys")
        return eventually(same, "the replica has what the masters have", timeout, 0.1)[0]


class Reads(Case):
    @classmethod
    def setUpClass(cls):
        cls.cluster = replicated()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def test_every_change_of_a_lock_arrives(self):
        master, replica, key = self.connect(1), self.connect(4), self.key
        token = self.granted(master.cmd("LOCK", key, "v", 20000))[b"token"]
        eventually(lambda: replica.cmd("READ", key) == b"v", "the lock")
        holder = as_map(replica.cmd("HOLDER", key))
        self.assertEqual((holder[b"value"], holder[b"token"]), (b"v", token))
        self.assertLessEqual(holder[b"remaining-ms"], 20000 + 1000)
        self.granted(master.cmd("UPDATE", key, "v", "w"))
        eventually(lambda: replica.cmd("READ", key) == b"w", "the new value")
        self.granted(master.cmd("EXTEND", key, "w", 50000))
        eventually(lambda: as_map(replica.cmd("HOLDER", key))[b"remaining-ms"] > 30000,
                   "the new end")
        self.assertEqual(replica.cmd("EXISTS", key), 1)
        self.assertGreater(replica.cmd("PTTL", key), 30000)
        self.assertEqual(replica.cmd("GET", key), b"w")
        self.granted(master.cmd("RELEASE", key, "w"))
        eventually(lambda: replica.cmd("READ", key) is None, "the release")
        self.assertIsNone(replica.cmd("HOLDER", key))

    def test_a_lease_ends_by_the_replicas_own_clock(self):
        master, replica, key = self.connect(2), self.connect(4), self.key
        self.granted(master.cmd("LOCK", key, "v", 1500))
        eventually(lambda: replica.cmd("READ", key) == b"v", "the lock", pause=0)
        eventually(lambda: replica.cmd("READ", key) is None, "its end", 10)

    def test_waitfor_returns_when_the_key_arrives(self):
        key = self.key
        replica = self.connect(4)
        self.assertIsNone(replica.cmd("WAITFOR", key, 100))
        join = background(replica.cmd, "WAITFOR", key, 20000)
        time.sleep(0.2)
        self.granted(self.connect(1).cmd("LOCK", key, "v", 20000))
        self.assertEqual(join(), b"v")
        began = time.monotonic()
        self.assertEqual(self.connect(4).cmd("WAITFOR", key, 15000), b"v")
        self.assertLess(time.monotonic() - began, 10, "at once where it is there")

    def test_waitrelease(self):
        master, replica, key = self.connect(3), self.connect(4), self.key
        self.assertEqual(replica.cmd("WAITRELEASE", key, 100), b"NOTLOCKED")
        for ttl, release in ((20000, True), (700, False)):
            self.granted(master.cmd("LOCK", key, "v", ttl))
            self.assertEqual(replica.cmd("WAITFOR", key, 20000), b"v")
            join = background(replica.cmd, "WAITRELEASE", key, 20000)
            time.sleep(0.1)
            if release:
                self.granted(master.cmd("RELEASE", key, "v"))
            self.assertEqual(join(), b"RELEASED")

    def test_it_coordinates(self):
        replica, key = self.connect(4), self.key
        grant = self.granted(replica.cmd("LOCK", key, "v", 20000))
        self.assertEqual(grant[b"quorum"], 2)
        self.assertGreaterEqual(grant[b"votes"], 2)
        token = grant[b"token"]
        self.assertEqual(self.connect(1).cmd("READ", key, "QUORUM"), b"v")
        self.assertEqual(as_map(replica.cmd("HOLDER", key, "QUORUM"))[b"node"], 4)
        self.granted(replica.cmd("EXTEND", key, "v", 30000, "TOKEN", token))
        self.granted(replica.cmd("UPDATE", key, "v", "w", "TOKEN", token))
        self.assertEqual(replica.cmd("CHECK", key, token), 1)
        self.assertWord(replica.cmd("RELEASE", key, "v"), "NOTOWNER")
        self.granted(replica.cmd("RELEASE", key, "w", "TOKEN", token))
        self.assertWord(replica.cmd("RELEASE", key, "w"), "NOTFOUND")
        self.assertEqual(replica.cmd("SET", key, "x", "NX", "PX", 20000), b"OK")
        self.assertEqual(replica.cmd("DELIFEQ", key, "x"), 1)
        self.assertLessEqual(as_map(replica.cmd("LAG"))[b"votes"], 3)

    def test_its_line_of_waiting_clients_moves_on(self):
        first, key = self.connect(4), self.key
        self.granted(first.cmd("LOCK", key, "v", 20000))
        join = background(self.connect(4).cmd, "LOCK", key, "w", 20000, "WAIT", 15000)
        time.sleep(0.2)
        self.granted(self.connect(1).cmd("RELEASE", key, "v"))
        self.granted(join())

    def test_lag_and_state_are_shown(self):
        for number in (4, 1):
            def shown(number=number):
                with self.cluster[number].client() as client:
                    row = node_rows(client)[4]
                return row if row[b"state"] == b"active" and row[b"lag-ms"] >= 0 else None
            row = eventually(shown, f"node {number} shows the replica's lag")
            self.assertEqual(row[b"role"], b"replica")
            self.assertEqual(row[b"slots-in-sync"], 64)
            self.assertEqual(row[b"slots-voting"], 0)
            self.assertLess(row[b"lag-ms"], 5000)
        with self.cluster[4].client() as client:
            self.assertEqual(node_rows(client)[1][b"lag-ms"], -1)

    def test_what_was_there_before_it_came(self):
        """A snapshot, then the tail."""
        with self.cluster[1].client() as client:
            for i in range(500):
                self.granted(client.cmd("LOCK", f"before{i}", "v", 50000))
            fifth = self.cluster.add_node(join=self.cluster[4])
            self.assertEqual(self.cluster.set_nodes((1, 2, 3), (4, 5)), b"OK")
            self.cluster.wait_copied(fifth)
            with fifth.client() as copy:
                for i in range(500):
                    self.assertEqual(copy.cmd("READ", f"before{i}"), b"v")
                for i in range(500):
                    self.granted(client.cmd("RELEASE", f"before{i}", "v"))
                self.copied(self.cluster, copy)
        self.assertEqual(self.cluster.set_nodes((1, 2, 3), (4,)), b"OK")
        with fifth.client() as copy:
            eventually(lambda: getattr(copy.cmd("READ", "x"), "word", "") == "NOTREADY",
                       "it copies no more")


class Log(Case):
    def test_a_write_is_there_after_the_batch_and_not_before(self):
        cluster = self.replicated({"replica_interval": SLOW_MS})
        master, replica = self.connect(1, cluster), self.connect(4, cluster)
        early = 0
        for i in range(20):
            self.granted(master.cmd("LOCK", f"k{i}", "v", 30000))
            early += replica.cmd("READ", f"k{i}") is not None
        for i in range(20):
            eventually(lambda i=i: replica.cmd("READ", f"k{i}") == b"v", f"k{i} is there")
        self.assertLess(early, 20, "a batch a second cannot have had all of them at once")
        cluster.close()

    def test_small_batches(self):
        cluster = self.replicated({"replica_batch": 256, "slots": 2})
        with self.connect(1, cluster) as master, self.connect(4, cluster) as replica:
            for i in range(200):
                self.granted(master.cmd("LOCK", f"k{i}", "v" * 1000, 50000))
            self.assertEqual(self.copied(cluster, replica), 200)
            self.assertEqual(replica.cmd("READ", "k199"), b"v" * 1000)
        cluster.close()

    def test_more_than_the_log_keeps(self):
        """A replica that was away for longer begins again with a snapshot."""
        cluster = self.replicated({"slots": 2})
        master = self.connect(1, cluster)
        before = cluster[1].rss_bytes()
        cluster[4].pause()
        rounds = 10 if sanitized() else 40
        for i in range(rounds):
            keys = [f"k{i}.{j}" for j in range(500)]
            master.pipeline([("LOCK", key, "v", 50000) for key in keys])
            if i % 10 != 9:
                master.pipeline([("RELEASE", key, "v") for key in keys])
        say(f"  {rounds * 500} locks while the replica stood: a master grew by "
            f"{(cluster[1].rss_bytes() - before) / 1e6:.1f} MB")
        cluster[4].resume()
        with self.connect(4, cluster) as replica:
            eventually(lambda: not isinstance(replica.cmd("READ", "k"), RespError), "a copy", 60)
            self.assertGreaterEqual(self.copied(cluster, replica), 500)
        cluster.close()

    def test_masters_that_start_again(self):
        """Another incarnation is another log."""
        cluster = self.replicated()
        keys = 0
        for number in (1, 2, 3):
            cluster[number].kill()
            cluster[number].start()
            cluster.wait_active()
            with self.connect(number, cluster) as master, self.connect(4, cluster) as replica:
                for i in range(50):
                    eventually(lambda n=number, i=i, c=master: not isinstance(
                        c.cmd("LOCK", f"k{n}.{i}", "v", 50000, "IDEMPOTENT"), RespError), "a lock")
                keys += 50
                for i in range(50):
                    eventually(lambda n=number, i=i, c=replica: c.cmd("READ", f"k{n}.{i}") == b"v",
                               f"k{number}.{i} is there")
        with self.connect(3, cluster) as master, self.connect(4, cluster) as replica:
            self.assertGreater(self.copied(cluster, replica), keys * 9 // 10)
        cluster.close()

    def test_a_replica_that_starts_again(self):
        cluster = self.replicated()
        master = self.connect(1, cluster)
        for i in range(100):
            self.granted(master.cmd("LOCK", f"k{i}", "v", 50000))
        cluster[4].kill()
        for i in range(50):
            self.granted(master.cmd("RELEASE", f"k{i}", "v"))
        cluster[4].start()
        with self.connect(4, cluster) as replica:
            eventually(lambda: not isinstance(replica.cmd("READ", "k"), RespError), "a copy", 60)
            self.assertEqual(self.copied(cluster, replica), 50)
        cluster.close()


class Costs(Case):
    def test_a_stopped_replica_costs_nothing_and_catches_up(self):
        cluster = self.replicated({"max_lease": 60000})
        load = Load(cluster, nodes=cluster.founders, clients=32)
        self.addCleanup(load.close)
        load.begin()
        rates = []
        for what in ("with the replica", "while it stands", "after it"):
            grants, began = load.workers.grants(), time.monotonic()
            load.during(what, time.sleep, 4)
            rates.append((load.workers.grants() - grants) / (time.monotonic() - began))
            if what == "with the replica":
                cluster[4].pause()
            elif what == "while it stands":
                cluster[4].resume()
        say("  grants a second: " + ", ".join(f"{rate:.0f}" for rate in rates))
        # A noisy machine is not judged here, a standstill is.
        self.assertGreater(rates[1], rates[0] / 5)
        self.assertEqual(load.judged(), [])
        with self.connect(1, cluster) as master, self.connect(4, cluster) as replica:
            eventually(lambda: not isinstance(replica.cmd("READ", "k"), RespError), "a copy", 60)
            self.copied(cluster, replica)
            eventually(lambda: 0 <= node_rows(replica)[4][b"lag-ms"] < 2000, "a fresh copy")
        cluster.close()

    def test_no_release_without_a_quorum(self):
        cluster = self.replicated()
        replica = self.connect(4, cluster)
        self.granted(replica.cmd("LOCK", "k", "v", 50000))
        eventually(lambda: replica.cmd("READ", "k") == b"v", "the copy")
        cluster[2].kill()
        cluster[3].kill()
        with self.connect(1, cluster) as master:
            for client in (replica, master):
                reply = client.cmd("RELEASE", "k", "v")
                self.assertIn(reply.word, ("NOQUORUM", "UNKNOWN"), reply.text)
                eventually(lambda c=client: getattr(c.cmd("RELEASE", "k", "v"), "word", "")
                           == "NOQUORUM", "no quorum")
                self.assertWord(client.cmd("LOCK", "k2", "v", 1000), "NOQUORUM")
            # Dirty reads are what they are.
            self.assertEqual(replica.cmd("READ", "k"), b"v")
            self.assertWord(replica.cmd("READ", "k", "QUORUM"), "NOQUORUM")
        cluster.close()


if __name__ == "__main__":
    main()
