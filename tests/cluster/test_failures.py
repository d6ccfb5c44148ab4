#!/usr/bin/env python3
"""Nodes that die, stop, come back, come back empty, or do not belong."""
import os
import signal
import time
import unittest

from harness import (Client, Cluster, RespError, as_map, background, eventually, main, node_states,
                     sanitized)

QUICK = {"max_lease": 2000, "attempt_time": 250}


class Case(unittest.TestCase):
    def cluster_of(self, n=3, **options):
        cluster = Cluster(n, **options)
        self.addCleanup(cluster.abandon)
        return cluster

    def assertWord(self, reply, word):
        self.assertIsInstance(reply, RespError, f"expected {word}, got {reply!r}")
        self.assertEqual(reply.word, word, reply.text)

    def granted(self, reply):
        if reply is None or isinstance(reply, RespError):
            self.fail(f"not granted: {reply!r}")
        return as_map(reply)

    def state(self, node, other):
        with node.client() as client:
            return node_states(client)[other.id][0]


class Masters(Case):
    def test_two_of_three_go_on_and_one_says_noquorum(self):
        cluster = self.cluster_of(attempt_time=500)
        a, b = cluster[1].client(), cluster[2].client()
        token = self.granted(a.cmd("LOCK", "kept", "v", 30000))[b"token"]
        cluster[3].kill()
        eventually(lambda: self.state(cluster[1], cluster[3]) == b"down", "3 is seen to be down")
        grant = self.granted(b.cmd("LOCK", "k", "v", 30000))
        self.assertEqual((grant[b"quorum"], grant[b"votes"]), (2, 2))
        self.granted(a.cmd("EXTEND", "kept", "v", 40000))
        self.assertEqual(b.cmd("READ", "kept", "QUORUM"), b"v")
        self.granted(b.cmd("RELEASE", "k", "v"))
        self.granted(a.cmd("LOCK", "k", "w", 30000))

        cluster[2].kill()
        eventually(lambda: self.state(cluster[1], cluster[2]) == b"down", "2 is seen to be down")
        for command in (["LOCK", "other", "v", 1000], ["READ", "kept", "QUORUM"],
                        ["HOLDER", "kept", "QUORUM"], ["CHECK", "kept", token],
                        ["EXTEND", "kept", "v", 1000], ["RELEASE", "kept", "v"],
                        ["UPDATE", "kept", "v", "w"], ["LAG"],
                        ["LOCK", "other", "v", 1000, "WAIT", 300],
                        ["SET", "other", "v", "NX", "PX", 1000], ["DELIFEQ", "kept", "v"]):
            asked = time.monotonic()
            reply = a.cmd(*command)
            self.assertLess(time.monotonic() - asked, 5, command)
            self.assertWord(reply, "NOQUORUM")
            self.assertTrue(reply.text.startswith("NOQUORUM 1 of 3 masters "), (command, reply))
        self.assertEqual(a.cmd("READ", "kept"), b"v")
        self.assertEqual(a.cmd("PING"), b"PONG")
        cluster.close()

    def test_noquorum_comes_within_the_operations_time(self):
        cluster = self.cluster_of(attempt_time=500, op_timeout=1000)
        a = cluster[1].client()
        cluster[2].pause()
        cluster[3].pause()
        asked = time.monotonic()
        self.assertWord(a.cmd("LOCK", "k", "v", 30000), "NOQUORUM")
        self.assertLess(time.monotonic() - asked, 5, "an operation ends within --op-timeout")
        asked = time.monotonic()
        self.assertWord(a.cmd("READ", "k", "QUORUM"), "NOQUORUM")
        self.assertLess(time.monotonic() - asked, 5)
        cluster[2].resume()
        cluster[3].resume()
        # What the failed attempt may have left is cleared away, or ends with its lease.
        eventually(lambda: isinstance(a.cmd("LOCK", "k2", "v", 1000), list), "votes again")
        cluster.close()

    def test_a_stopped_master_catches_up(self):
        cluster = self.cluster_of(attempt_time=500)
        a, c = cluster[1].client(), cluster[3].client()
        cluster[2].pause()
        for i in range(20):
            self.granted(a.cmd("LOCK", f"k{i}", "v", 20000))
        for i in range(10):
            self.granted(c.cmd("RELEASE", f"k{i}", "v"))
        cluster[2].resume()
        cluster.wait_active()
        with cluster[2].client() as b:
            for i in range(20):
                self.assertEqual(b.cmd("READ", f"k{i}", "QUORUM"), None if i < 10 else b"v")
            for i in range(10):
                self.granted(b.cmd("LOCK", f"k{i}", "w", 20000))
            self.assertIsNone(b.cmd("LOCK", "k15", "w", 20000))
        cluster.close()

    def test_a_dead_connection_does_not_take_the_lock_with_it(self):
        cluster = self.cluster_of(**QUICK)
        with cluster[1].client() as a:
            self.granted(a.cmd("LOCK", "k", "v", 2000))
        with cluster[2].client() as b:
            self.assertIsNone(b.cmd("LOCK", "k", "w", 1000))
            self.granted(b.cmd("LOCK", "k", "w", 1000, "WAIT", 15000))
        cluster.close()

    def test_locks_survive_their_coordinator(self):
        cluster = self.cluster_of()
        with cluster[1].client() as a:
            token = self.granted(a.cmd("LOCK", "k", "v", 30000))[b"token"]
        cluster[1].kill()
        with cluster[2].client() as b:
            eventually(lambda: not isinstance(b.cmd("READ", "k", "QUORUM"), RespError), "quorum")

            def refused():
                # A promise whose coordinator died before it could confirm makes rivals BUSY,
                # until the masters have asked one another.
                reply = b.cmd("LOCK", "k", "w", 1000)
                if reply is not None:
                    self.assertWord(reply, "BUSY")
                return reply is None
            eventually(refused, "held by the dead coordinator's client")
            self.assertEqual(b.cmd("CHECK", "k", token), 1)
            self.assertEqual(self.granted(b.cmd("EXTEND", "k", "v", 30000))[b"token"], token)
            self.granted(b.cmd("RELEASE", "k", "v"))
        cluster.close()


class Restarts(Case):
    def test_a_restarted_master_waits_and_votes_again(self):
        cluster = self.cluster_of(**QUICK)
        with cluster[1].client() as a:
            first = self.granted(a.cmd("LOCK", "k", "v", 2000))[b"token"]
        cluster[3].kill()
        cluster[3].start()
        self.assertIn("--new-cluster ignored", cluster[3].log())
        with cluster[3].client() as c:
            # Without a vote it coordinates all the same.
            self.assertNotEqual(node_states(c)[3][0], b"active")
            eventually(lambda: node_states(c)[1][1] > 0 and node_states(c)[2][1] > 0, "links")
            grant = self.granted(c.cmd("LOCK", "mine", "v", 2000))
            self.assertEqual(grant[b"votes"], 2)
            self.assertWord(c.cmd("READ", "mine"), "NOTREADY")
            eventually(lambda: node_states(c)[3][0] == b"active", "votes after the quarantine")
        cluster.wait_active()
        cluster[1].kill()
        with cluster[3].client() as c:
            grant = self.granted(eventually(
                lambda: self.lock_or_none(c, "k", "w", 2000), "granted by 2 and 3"))
            self.assertGreater(grant[b"token"], first)
        cluster.close()

    @staticmethod
    def lock_or_none(client, *args):
        reply = client.cmd("LOCK", *args)
        return None if isinstance(reply, RespError) else reply

    def test_two_restarts_inside_a_lease_do_not_free_it(self):
        cluster = self.cluster_of(max_lease=5000, attempt_time=250)
        with cluster[1].client() as a:
            sent = time.monotonic()
            grant = self.granted(a.cmd("LOCK", "k", "x", 5000))
        for number in (2, 3):
            cluster[number].kill()
            cluster[number].start()
        with cluster[2].client() as b:
            while time.monotonic() < sent + grant[b"valid-ms"] / 1000:
                asked = time.monotonic()
                reply = b.cmd("LOCK", "k", "y", 1000)
                if isinstance(reply, list) and asked < sent + grant[b"valid-ms"] / 1000:
                    # Granted before the holder had to let go?
                    self.assertGreater(time.monotonic(), sent + grant[b"valid-ms"] / 1000)
                time.sleep(0.05)
            later = eventually(lambda: self.lock_or_none(b, "k", "y", 1000), "free at the end")
            self.assertGreater(as_map(later)[b"token"], grant[b"token"])
        cluster.close()

    def test_a_whole_restart_keeps_tokens_rising(self):
        cluster = self.cluster_of(**QUICK)
        with cluster[1].client() as a:
            before = self.granted(a.cmd("LOCK", "k", "v", 500))[b"token"]
        for node in cluster.nodes:
            node.kill()
        cluster.start()
        with cluster[1].client() as a:
            after = self.granted(eventually(lambda: self.lock_or_none(a, "k", "w", 500), "grant"))
            self.assertGreater(after[b"token"], before)
        cluster.close()

    def test_a_clean_stop_ends_with_0_soon_and_closes_clients(self):
        cluster = self.cluster_of()
        idle, waiter = cluster[1].client(), cluster[1].client()
        waiter.send("WAITFOR", "k", 60000)
        time.sleep(0.1)
        for number, signal_number in ((1, signal.SIGTERM), (2, signal.SIGINT)):
            asked = time.monotonic()
            self.assertEqual(cluster[number].terminate(signal_number), 0)
            self.assertLess(time.monotonic() - asked, 10 if sanitized() else 2)
        self.assertTrue(idle.at_end())
        self.assertTrue(waiter.at_end())
        cluster.close()


class FirstBoot(Case):
    def test_new_cluster_is_refused_by_peers_that_know_the_node(self):
        cluster = self.cluster_of(**QUICK)
        cluster[3].kill()
        for name in os.listdir(cluster[3].state_dir):
            os.unlink(os.path.join(cluster[3].state_dir, name))
        cluster[3].wait_ports_free()
        cluster[3].spawn(new_cluster=True)
        status = cluster[3].wait_exit()
        self.assertEqual(status, 1, cluster[3].log())
        self.assertIn("without --new-cluster", cluster[3].log())
        # Without it, it waits and is welcome.
        for name in os.listdir(cluster[3].state_dir):
            os.unlink(os.path.join(cluster[3].state_dir, name))
        cluster[3].start(new_cluster=False)
        cluster.wait_active()
        cluster.close()

    def test_ephemeral_nodes_write_nothing_and_wait_after_a_restart(self):
        cluster = self.cluster_of(ephemeral=True, **QUICK)
        with cluster[1].client() as a:
            self.granted(a.cmd("LOCK", "k", "v", 2000))
        for node in cluster.nodes:
            self.assertEqual(os.listdir(node.state_dir), [])
        cluster[2].kill()
        cluster[2].start(new_cluster=False)
        with cluster[2].client() as b:
            self.assertNotEqual(node_states(b)[2][0], b"active")
        cluster.wait_active()
        cluster.close()

    def test_a_single_node_is_a_cluster(self):
        cluster = self.cluster_of(1)
        with cluster[1].client() as a:
            grant = self.granted(a.cmd("LOCK", "k", "v", 2000))
            self.assertEqual((grant[b"quorum"], grant[b"votes"]), (1, 1))
            self.assertIsNone(a.cmd("LOCK", "k", "w", 2000))
        cluster.close()


class Strangers(Case):
    def refused(self, sentence, **options):
        cluster = self.cluster_of(**QUICK)
        cluster[3].terminate()
        cluster[3].start(ephemeral=True, new_cluster=False, **options)

        def said():
            return any(sentence in n.log() for n in cluster.nodes)
        eventually(said, f"'{sentence}' in a log")
        with cluster[3].client() as c:
            self.assertWord(c.cmd("LOCK", "k", "v", 1000), "NOQUORUM")
        with cluster[1].client() as a:
            self.granted(a.cmd("LOCK", "k", "v", 1000))
        cluster.close()

    def test_another_cluster(self):
        self.refused('belongs to cluster "', cluster="other")

    def test_other_slots(self):
        self.refused("--slots", slots=128)

    def test_another_longest_lease(self):
        self.refused("--max-lease", max_lease=3000)

    def test_no_peer_at_all(self):
        cluster = self.cluster_of(**QUICK)
        with Client(cluster[1].peer_address) as client:
            client.send("PING")
            self.assertTrue(client.at_end())
        with Client(cluster[1].peer_address) as silent, cluster[1].client() as a:
            self.assertTrue(silent.at_end(timeout=30), "a peer that says nothing is dropped")
            self.granted(a.cmd("LOCK", "k", "v", 1000))
        cluster.close()


class Waiters(Case):
    def test_a_waiter_is_served_when_the_holders_node_dies(self):
        cluster = self.cluster_of(**QUICK)
        with cluster[1].client() as a:
            self.granted(a.cmd("LOCK", "k", "v", 1500))
        b = cluster[2].client()
        join = background(b.cmd, "LOCK", "k", "w", 1000, "WAIT", 20000)
        time.sleep(0.1)
        cluster[1].kill()
        self.granted(join())
        cluster.close()


if __name__ == "__main__":
    main()
