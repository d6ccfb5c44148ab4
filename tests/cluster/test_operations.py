"""What an operator does to a node, and what its machine does: stop, full disk, a wrong id."""
import os
import resource
import socket
import subprocess
import tempfile
import unittest

import harness
from harness import Closed, Cluster, Node, RespError, encode, eventually


class Drain(unittest.TestCase):
    def test_waiting_lock_is_answered_at_once(self):
        with Cluster(3, threads=2) as cluster:
            holder = cluster[2].client()
            self.assertIsNotNone(holder.cmd("LOCK", "k", "v", 30000))
            waiters = [cluster[1].client() for _ in range(8)]
            for number, waiter in enumerate(waiters):
                waiter.send("LOCK", "k", f"w{number}", 30000, "WAIT", 20000)

            def all_wait():
                with cluster[1].client() as client:
                    return b"waiters:8\r\n" in client.cmd("INFO", "locker")
            eventually(all_wait, "8 waiters")
            self.assertEqual(cluster[1].terminate(), 0)
            for waiter in waiters:
                reply = waiter.read()
                self.assertIsInstance(reply, RespError)
                self.assertEqual(reply.word, "NOTREADY")
                self.assertTrue(waiter.at_end())
            # Not a refusal for lack of time: the node had nothing left to wait for.
            self.assertNotIn("not everything was answered", cluster[1].all_log())
            with cluster[2].client() as client:
                self.assertEqual(client.cmd("READ", "k", "QUORUM"), b"v")

    def test_slow_reader_does_not_spoil_the_exit(self):
        with Cluster(1, threads=2) as cluster:
            with cluster[1].client() as client:
                client.cmd("LOCK", "k", "v" * 4000, 30000)
            slow = socket.socket()
            self.addCleanup(slow.close)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = cluster[1].address.rsplit(":", 1)
            slow.connect((host, int(port)))
            slow.settimeout(0.5)
            with self.assertRaises((socket.timeout, TimeoutError)):
                while True:
                    slow.sendall(encode("GET", "k") * 2000)
            self.assertEqual(cluster[1].terminate(), 0)
            self.assertNotIn("did not end in time", cluster[1].all_log())


class Identity(unittest.TestCase):
    def test_second_node_of_an_id_stays_out(self):
        with Cluster(3) as cluster:
            twin = Node(cluster, 2)
            twin.log_path += ".twin"
            twin.state_dir += ".twin"
            twin.start(new_cluster=False)
            try:
                said = "another node 2 is linked"
                eventually(lambda: said in cluster[1].log(), "node 1 refuses the twin")
                eventually(lambda: said in twin.log(), "the twin is told")
                self.assertTrue(cluster[2].running())
                with cluster[1].client() as client:
                    self.assertEqual(harness.node_states(client)[2], (b"active", 1))
                # A successor gets in.
                cluster[2].kill()
                eventually(lambda: "peer 1: link 0 of 1 up" in twin.log(), "the twin gets in")
            finally:
                twin.terminate()

    def test_http_is_cut_off_with_a_line(self):
        with Cluster(1) as cluster:
            with cluster[1].client() as client:
                client.send_raw(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k v NX PX 9999\r\n")
                with self.assertRaises(Closed):
                    client.read()
            with cluster[1].client() as client:
                self.assertIsNone(client.cmd("GET", "k"))
            self.assertEqual(cluster[1].log().count("speaks HTTP"), 1)


AHEAD_MS = 3600 * 1000
NO_FILE_GROWS_BEYOND = 64


def limit_files(node, size):
    _, hard = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (size, hard))


class Ceiling(unittest.TestCase):
    def test_a_disk_that_fails_stops_no_node(self):
        """Ballots above the durable ceiling are refused, and granted once it is written."""
        with Cluster(3, start=False) as cluster:
            low = [cluster[1], cluster[2]]
            for node in low:
                node.start()
            cluster.wait_active(nodes=low)
            client = cluster[1].client()
            harness.eventually(lambda: harness.as_map(client.cmd("LOCK", "old", "v", 60000)),
                               "a lock before")
            for node in low:
                limit_files(node, NO_FILE_GROWS_BEYOND)
            # A node whose wall clock is an hour ahead takes the ballots of all with it.
            os.environ["LOCKER_TEST_WALL_OFFSET_MS"] = str(AHEAD_MS)
            try:
                cluster[3].start()
            finally:
                del os.environ["LOCKER_TEST_WALL_OFFSET_MS"]
            cluster.wait_active()
            refused = eventually(
                lambda: isinstance(reply := client.cmd("LOCK", "new", "v", 1), RespError) and reply,
                "a lock is refused")
            self.assertIn(refused.word, ("NOTREADY", "NOQUORUM"))
            self.assertEqual(client.cmd("PING"), b"PONG")
            held = harness.as_map(client.cmd("EXTEND", "old", "v", 60000))
            self.assertGreater(held[b"valid-ms"], 0)
            for node in low:
                self.assertTrue(node.running())
                limit_files(node, resource.RLIM_INFINITY)
            eventually(lambda: isinstance(client.cmd("LOCK", "new", "v", 1000), (dict, list)),
                       "a lock is granted again")
            for node in low:
                eventually(lambda: "is written again" in node.log(), "the log says so")


class Configuration(unittest.TestCase):
    def refused(self, text):
        with tempfile.NamedTemporaryFile(suffix=".conf") as file:
            file.write(text)
            file.flush()
            done = subprocess.run([harness.LOCKERD, "--config", file.name], timeout=30,
                                  stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 2)
        return done.stderr

    def test_errors_show_no_raw_bytes(self):
        said = self.refused(b"slots 1\nlis\x1b[2J\xff x\n")
        self.assertIn(rb":2: unknown option lis\x1b[2J\xff", said)
        self.assertNotIn(b"\x1b", said)

    def test_a_nul_byte_is_not_the_end_of_a_line(self):
        self.assertIn(b":1: there is a NUL byte", self.refused(b"slots 1\0 nonsense\n"))


if __name__ == "__main__":
    harness.main()
