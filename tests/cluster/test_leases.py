#!/usr/bin/env python3
"""Leases end neither early nor late. Times are the clients' own: between the moment before a request
is sent and the moment after its reply was read."""
import time
import unittest

from harness import ClusterCase, Cluster, RespError, as_map, background, main


class Leases(ClusterCase):
    def hold(self, number, key, ttl_ms):
        """(client, earliest and latest start of the lease, grant)"""
        client = self.connect(number)
        before = time.monotonic()
        grant = self.assertGranted(client.cmd("LOCK", key, "v", ttl_ms))
        return client, before, time.monotonic(), grant

    def test_no_lease_ends_early(self):
        """S5 of protocol.md: whatever the length, nobody else is in before valid-ms is over."""
        for ttl_ms in (20, 90, 250, 577, 900, 999, 1001, 1590, 2000):
            key = f"{self.key}-{ttl_ms}"
            _, before, _, grant = self.hold(1, key, ttl_ms)
            self.assertLessEqual(grant[b"valid-ms"], ttl_ms)
            self.assertGreaterEqual(grant[b"valid-ms"], ttl_ms * 0.99 - 3 - 500)
            rival = self.connect(2)
            while True:
                reply = rival.cmd("LOCK", key, "rival", 1000)
                after = time.monotonic()
                if reply is not None:
                    self.assertGranted(reply)
                    break
            self.assertGreaterEqual(after - before, grant[b"valid-ms"] / 1000, ttl_ms)

    def test_no_lease_ends_late(self):
        """A second look after the lease and its margin finds nothing, on every node."""
        clients = [self.connect(n) for n in (1, 2, 3)]
        for ttl_ms in (1, 10, 100, 500, 999, 1500):
            key = f"{self.key}-{ttl_ms}"
            clients[0].send("LOCK", key, "v", ttl_ms)
            reply = clients[0].read()
            after = time.monotonic()
            if reply is None or isinstance(reply, RespError):
                # A lease so short may be over before a quorum has answered.
                self.assertLess(ttl_ms, 100, reply)
                continue
            # One millisecond of margin, and clocks that may run apart by 0.1 %.
            while time.monotonic() < after + ttl_ms * 1.002 / 1000 + 0.003:
                time.sleep(0.0005)
            for client in clients:
                self.assertIsNone(client.cmd("READ", key), (ttl_ms, "local"))
            self.assertIsNone(clients[1].cmd("READ", key, "QUORUM"), ttl_ms)
            self.assertGranted(clients[2].cmd("LOCK", key, "w", 2000))

    def test_one_millisecond_is_a_lease(self):
        client = self.connect(1)
        for i in range(50):
            reply = client.cmd("LOCK", f"{self.key}-{i}", "v", 1)
            # Granted for what is left of it, or over before it was granted; never for longer.
            if isinstance(reply, list):
                self.assertLessEqual(as_map(reply)[b"valid-ms"], 1)
            else:
                self.assertIsInstance(reply, RespError, "nobody else holds it")

    def test_extend_keeps(self):
        client, before, _, grant = self.hold(1, self.key, 400)
        rival = self.connect(2)
        until = before + 2
        end = before + grant[b"valid-ms"] / 1000
        while time.monotonic() < until:
            sent = time.monotonic()
            self.assertLess(sent, end, "this machine is too slow for the test")
            extended = self.assertGranted(client.cmd("EXTEND", self.key, "v", 1000))
            self.assertEqual(extended[b"token"], grant[b"token"])
            end = sent + extended[b"valid-ms"] / 1000
            self.assertIsNone(rival.cmd("LOCK", self.key, "w", 1000))
            time.sleep(0.05)

    def test_extend_never_shortens(self):
        client, _, _, _ = self.hold(1, self.key, 20000)
        extended = self.assertGranted(client.cmd("EXTEND", self.key, "v", 100))
        time.sleep(0.3)
        self.assertIsNone(self.connect(2).cmd("LOCK", self.key, "w", 1000))
        self.assertGreater(extended[b"valid-ms"], 50)

    def test_a_minute(self):
        """Taken, looked at, extended, released; nobody waits for its end."""
        client, before, _, grant = self.hold(1, self.key, 60000)
        self.assertGreaterEqual(grant[b"valid-ms"], 55000)
        self.assertLessEqual(grant[b"valid-ms"], 60000)
        self.assertError(client.cmd("LOCK", self.key + "-more", "v", 60001), "LIMIT")
        for number in (1, 2, 3):
            holder = as_map(self.connect(number).cmd("HOLDER", self.key, "QUORUM"))
            passed_ms = (time.monotonic() - before) * 1000
            self.assertGreaterEqual(holder[b"remaining-ms"], 60000 - passed_ms * 1.01 - 5)
            self.assertLessEqual(holder[b"remaining-ms"], 60001)
        time.sleep(1)
        self.assertGranted(client.cmd("EXTEND", self.key, "v", 60000))
        as_map(client.cmd("RELEASE", self.key, "v"))
        self.assertGranted(self.connect(3).cmd("LOCK", self.key, "w", 1000))

    def test_many_leases_of_all_lengths_end_in_time(self):
        client = self.connect(1)
        lengths = {f"{self.key}-{i}": 300 + i * 4 for i in range(300)}
        before = time.monotonic()
        for reply in client.pipeline([("LOCK", k, "v", ms) for k, ms in lengths.items()]):
            self.assertGranted(reply)
        after = time.monotonic()
        for pause in (0.2, 0.3, 0.3, 0.3):
            time.sleep(pause)
            looked = time.monotonic()
            replies = self.connect(2).pipeline([("READ", k) for k in lengths])
            done = time.monotonic()
            for (key, ms), reply in zip(lengths.items(), replies):
                if looked > after + ms * 1.002 / 1000 + 0.003:
                    self.assertIsNone(reply, (key, "is late"))
                elif done < before + ms * 0.998 / 1000 - 0.002 and looked > after + 0.5:
                    self.assertEqual(reply, b"v", (key, "is early"))


class StoppedMaster(unittest.TestCase):
    def test_a_lease_that_ended_while_waiting_for_votes_is_not_granted(self):
        """S6 of protocol.md: two of three masters stand still longer than the lease."""
        cluster = Cluster(3, attempt_time=3000, op_timeout=6000)
        self.addCleanup(cluster.abandon)
        with cluster[1].client() as a:
            self.assertIsInstance(a.cmd("LOCK", "before", "v", 1000), list)
            cluster[2].pause()
            cluster[3].pause()
            sent = time.monotonic()
            join = background(a.cmd, "LOCK", "k", "v", 400)
            time.sleep(0.8)
            cluster[2].resume()
            cluster[3].resume()
            reply = join()
            passed_ms = (time.monotonic() - sent) * 1000
            if isinstance(reply, list):
                # A later attempt of the same operation: then it is valid beyond this moment.
                self.assertGreater(as_map(reply)[b"valid-ms"], 800)
                self.assertLessEqual(as_map(reply)[b"valid-ms"], passed_ms + 400)
            else:
                self.assertTrue(reply is None or isinstance(reply, RespError), reply)
        cluster.close()

    def test_one_slow_master_does_not_slow_the_others(self):
        cluster = Cluster(3, attempt_time=3000)
        self.addCleanup(cluster.abandon)
        cluster[3].pause()
        with cluster[1].client() as a:
            for i in range(20):
                sent = time.monotonic()
                reply = a.cmd("LOCK", f"k{i}", "v", 2000)
                self.assertIsInstance(reply, list, reply)
                self.assertLess(time.monotonic() - sent, 2, "waited for the stopped master")
                self.assertGreater(as_map(reply)[b"valid-ms"], 0)
        cluster[3].resume()
        cluster.close()


if __name__ == "__main__":
    main()
