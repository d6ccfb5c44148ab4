#!/usr/bin/env python3
"""Bad bytes, bad clients, bad options and missing means. Others are served meanwhile."""
import ctypes
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
import unittest

from harness import (LOCKERD, Client, Closed, Cluster, ClusterCase, RespError, encode,
                     eventually, free_address, main, sanitized)

IDLE = 10000


class Bytes(ClusterCase):
    nodes = 1
    options = {"threads": 2}

    def setUp(self):
        super().setUp()
        self.witness = self.connect()

    def tearDown(self):
        """Nobody else noticed."""
        self.assertEqual(self.witness.cmd("PING"), b"PONG")
        key = self.key + "-after"
        self.assertGranted(self.witness.cmd("LOCK", key, "v", 1000))

    def refused(self, data):
        """The protocol error for these bytes; the connection is closed behind it."""
        with Client(self.cluster[1].address) as client:
            client.send_raw(data)
            reply = client.read()
            self.assertIsInstance(reply, RespError, data[:60])
            self.assertTrue(reply.text.startswith("ERR Protocol error"), reply.text)
            self.assertTrue(client.at_end(), data[:60])
            return reply.text

    def test_broken_frames(self):
        for data in (b"*1\r\n$x\r\n", b"*x\r\n", b"*1\r\n:1\r\n", b"*1\r\n$-5\r\n",
                     b"*1\r\n+PING\r\n", b"*1\r\n$4\r\nPINGxx\r\n"):
            self.refused(data)

    def test_too_large_is_refused_from_its_declared_length(self):
        for data in (b"*1\r\n$1000000000\r\n", b"*2147483647\r\n", b"*65\r\n",
                     b"*99999999999999999999\r\n", b"*3\r\n$4\r\nLOCK\r\n$99999999999999999999\r\n"):
            self.refused(data)

    def test_an_endless_line(self):
        with Client(self.cluster[1].address) as client:
            try:
                for _ in range(64):
                    client.send_raw(b"A" * 4096)
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.assertTrue(client.at_end())

    def test_unbalanced_quotes(self):
        self.assertIn("quotes", self.refused(b'ECHO "half\r\n'))

    def test_keys_and_values_at_and_beyond_their_bounds(self):
        a = self.witness
        self.assertGranted(a.cmd("LOCK", b"k" * 512, b"v" * 4096, 1000))
        for words in (["LOCK", b"k" * 513, "v", 1000], ["LOCK", self.key, b"v" * 4097, 1000],
                      ["READ", b"k" * 513], ["SET", b"k" * 600, "v", "NX", "PX", 1000]):
            self.assertError(a.cmd(*words), "LIMIT")

    def test_garbage(self):
        rng = random.Random(7)
        for i in range(200):
            data = bytes(rng.choice(b"*$\r\n0123456789-+:_\0\xffLOCKlock \"'\\x")
                         for _ in range(rng.randrange(1, 400)))
            with Client(self.cluster[1].address, timeout=5) as client:
                client.send_raw(data)
                client.sock.shutdown(socket.SHUT_WR)
                self.assertTrue(client.at_end(timeout=20), (i, data))

    def test_a_command_in_pieces_and_halves(self):
        with Client(self.cluster[1].address) as client:
            for byte in encode("LOCK", self.key, "v", 5000):
                client.send_raw(bytes([byte]))
            self.assertGranted(client.read())
        for cut in range(1, 40, 3):
            with Client(self.cluster[1].address) as client:
                client.send_raw(encode("LOCK", self.key + "-half", "v", 5000)[:cut])
        self.assertIsNone(self.witness.cmd("READ", self.key + "-half"))

    def test_slow_senders(self):
        clients = [self.connect() for _ in range(20)]
        data = encode("PING", self.key)
        for byte in data:
            for client in clients:
                client.send_raw(bytes([byte]))
            time.sleep(0.05)
        for client in clients:
            self.assertEqual(client.read(), self.key.encode())

    def test_one_byte_a_second_is_not_waited_for(self):
        with Client(self.cluster[1].address) as client:
            data, closed = encode("LOCK", self.key, "v" * 200, 5000), False
            for byte in data[:90]:
                try:
                    client.send_raw(bytes([byte]))
                except (BrokenPipeError, ConnectionResetError):
                    closed = True
                    break
                self.assertEqual(self.witness.cmd("PING"), b"PONG")
                time.sleep(1)
            self.assertTrue(closed, "the request is not complete after 90 s")
        self.assertIsNone(self.witness.cmd("READ", self.key))

    def test_a_client_that_never_reads_is_closed_and_memory_stays_bounded(self):
        value = b"v" * 4096
        self.assertGranted(self.witness.cmd("LOCK", self.key, value, 60000))
        node = self.cluster[1]
        before = node.rss_bytes()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = node.address.rsplit(":", 1)
            client.connect((host, int(port)))
            mine = ("addr=%s:%d " % client.getsockname()).encode()
            client.settimeout(0.2)
            data = encode("READ", self.key) * 100
            most = 0

            def gone():
                nonlocal most
                try:
                    client.send(data)
                except OSError:
                    pass  # no longer read, or closed: the server's list tells which
                most = max(most, node.rss_bytes() - before)
                return mine not in self.witness.cmd("CLIENT", "LIST")
            self.assertIn(mine, self.witness.cmd("CLIENT", "LIST"))
            eventually(gone, "the server closes a client that never reads", timeout=90)
            self.assertLess(most, 64 << 20)

    def test_a_redis_client_on_the_peer_port(self):
        with Client(self.cluster[1].peer_address) as client:
            client.send("PING")
            self.assertTrue(client.at_end())
        for data in (b"\0" * 100, b"\xff" * 2000, os.urandom(5000)):
            with Client(self.cluster[1].peer_address) as client:
                try:
                    client.send_raw(data)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                self.assertTrue(client.at_end(timeout=30))


class Limits(unittest.TestCase):
    @staticmethod
    def connected(client):
        return int(re.search(rb"connected_clients:(\d+)", client.cmd("INFO"))[1])

    def test_ten_thousand_idle_connections(self):
        if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < IDLE + 300:
            self.skipTest(f"the hard limit of open files is below {IDLE + 300}")
        cluster = Cluster(3, max_clients=IDLE + 100, threads=1)
        self.addCleanup(cluster.abandon)
        clients = []
        with cluster[1].client() as witness:
            try:
                for _ in range(IDLE):
                    clients.append(Client(cluster[1].address))
                    if len(clients) % 100 == 0:
                        self.assertEqual(clients[-1].cmd("PING"), b"PONG")
                for client in (witness, clients[0], clients[IDLE // 2]):
                    self.assertIsInstance(client.cmd("LOCK", f"k{client.sock.fileno()}", "v", 5000),
                                          list)
                self.assertEqual(self.connected(witness), IDLE + 1)
                self.assertLess(cluster[1].rss_bytes(), (800 if sanitized() else 200) << 20)
            finally:
                for client in clients:
                    client.close()
            eventually(lambda: self.connected(witness) == 1, "the server notices that they left")
        cluster.close()

    def test_more_clients_than_allowed_read_why(self):
        cluster = Cluster(1, max_clients=8, threads=1)
        self.addCleanup(cluster.abandon)
        clients = []

        def eight():
            # The connection that watched the start may still be counted.
            client = cluster[1].client()
            try:
                if client.cmd("PING") == b"PONG":
                    clients.append(client)
            except (Closed, OSError):
                client.close()
            return len(clients) == 8
        eventually(eight, "eight clients are served")
        with cluster[1].client() as late:
            try:
                late.send("PING")
                reply = late.read()
                self.assertIsInstance(reply, RespError)
                self.assertIn("max number of clients", reply.text)
            except (Closed, BrokenPipeError):
                self.fail("closed without a word")
            self.assertTrue(late.at_end())
        clients.pop().close()

        def another():
            with cluster[1].client() as client:
                try:
                    return client.cmd("PING") == b"PONG"
                except (Closed, OSError):
                    return False
        eventually(another, "a place is free again")
        for client in clients:
            client.close()
        cluster.close()

    def test_full_of_leases(self):
        cluster = Cluster(1, max_leases=100, threads=1, max_lease=2000, attempt_time=250)
        self.addCleanup(cluster.abandon)
        with cluster[1].client() as client:
            replies = client.pipeline([("LOCK", f"k{i}", "v", 2000) for i in range(300)])
            words = {r.word for r in replies if isinstance(r, RespError)}
            self.assertEqual(words, {"LIMIT"})
            self.assertGreaterEqual(sum(isinstance(r, list) for r in replies), 90)
            eventually(lambda: isinstance(client.cmd("LOCK", "later", "v", 1000), list),
                       "room when leases have ended")
        cluster.close()


def run(*words, prefix=(), preexec=None, timeout=30):
    """(exit status, stderr) of a lockerd that should not run long."""
    process = subprocess.Popen([*prefix, LOCKERD, *map(str, words)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, preexec_fn=preexec, text=True,
                               errors="replace")
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"lockerd runs with {words}:\n{out}{err}")
    return process.returncode, err, out


def refuse_io_uring():
    """In the child: a seccomp filter that answers EPERM to io_uring_setup (425)."""
    libc = ctypes.CDLL(None, use_errno=True)
    allow, deny, arch = 0x7FFF0000, 0x00050000 | 1, 0xC000003E
    program = b"".join(struct.pack("HBBI", *row) for row in [
        (0x20, 0, 0, 4),        # load the architecture
        (0x15, 0, 3, arch),     # another: allow
        (0x20, 0, 0, 0),        # load the number of the call
        (0x15, 0, 1, 425),
        (0x06, 0, 0, deny),
        (0x06, 0, 0, allow)])
    buffer = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    filter_ = Program(len(program) // 8, ctypes.addressof(buffer))
    # PR_SET_NO_NEW_PRIVS; PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filter_), 0, 0):
        os._exit(99)


class Starting(unittest.TestCase):
    def addresses(self):
        return ["--listen", free_address(), "--peer-listen", free_address(), "--ephemeral",
                "--new-cluster", "--threads", 1, "--pin", "off"]

    def test_wrong_flags(self):
        for words in (["--nosuch", "1"], ["--threads", "0"], ["--threads", "x"], ["--threads"],
                      ["--listen", "nonsense"], ["--masters", "1"], ["--masters", "1=a:1,1=b:2"],
                      ["--id", "0"], ["--id", "256"], ["--slots", "0"], ["--max-lease", "-1"],
                      ["--log-level", "loud"], ["--pin", "9999"], ["stray"],
                      ["--config", "/nonexistent/file"]):
            status, err, _ = run(*words)
            self.assertEqual(status, 2, (words, err))
            self.assertEqual(err.count("\n"), 1, err)
            if words[0].startswith("--"):
                self.assertIn(words[0].lstrip("-"), err)

    def test_help_and_version(self):
        status, err, out = run("--help")
        self.assertEqual((status, err), (0, ""))
        self.assertLess(out.count("\n"), 60, "two screens")
        for option in ("--masters", "--max-lease", "--ephemeral", "--config"):
            self.assertIn(option, out)
        self.assertRegex(run("--version")[2], r"^lockerd \d")

    def test_config_files(self):
        with Cluster(1, start=False) as cluster:
            path = os.path.join(cluster.dir, "locker.conf")
            for text, line in (("threads 1\nnosuch 1\n", 2), ("threads zero\n", 1),
                               ("\n# fine\nslots\n", 3), ("threads 1\nthreads 1\n", 2)):
                with open(path, "w", encoding="ascii") as file:
                    file.write(text)
                status, err, _ = run("--config", path)
                self.assertEqual(status, 2, err)
                self.assertIn(f"{path}:{line}:", err)
            with open(path, "wb") as file:
                file.write(os.urandom(5000))
            self.assertEqual(run("--config", path)[0], 2)
            with open(path, "w", encoding="ascii") as file:
                file.write("# all is well\nthreads = 2\nmax-lease 5000\n")
            node = cluster[1]
            node.start(config=path, threads=None, max_lease=None)
            with node.client() as client:
                client_says = client.cmd("LOCK", "k", "v", 5001)
                self.assertEqual(client_says.word, "LIMIT")

    def test_ports_in_use(self):
        with Cluster(1) as cluster:
            node = cluster[1]
            mine = free_address()
            for listen, peer, busy in ((node.address, mine, node.address),
                                       (mine, node.peer_address, node.peer_address)):
                status, err, _ = run("--listen", listen, "--peer-listen", peer, "--ephemeral",
                                     "--new-cluster", "--threads", 2, "--pin", "off")
                self.assertEqual(status, 1, err)
                self.assertIn(busy, err)
                self.assertIn("in use", err)

    def test_state_dir_that_cannot_be_written(self):
        words = self.addresses()
        words.remove("--ephemeral")
        status, err, _ = run(*words, "--state-dir", "/proc/nowhere")
        self.assertEqual(status, 1, err)
        self.assertIn("/proc/nowhere", err)

    def test_too_little_locked_memory(self):
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            self.skipTest("needs root and setpriv to become somebody without privileges")
        # Where that user may not even read the program, this says nothing.
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if subprocess.run([*prefix, LOCKERD, "--version"], capture_output=True,
                          check=False).returncode != 0:
            self.skipTest("an unprivileged user cannot run the program where it lies")

        def limit():
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        process = subprocess.Popen([*prefix, LOCKERD, *map(str, self.addresses())],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=limit)
        try:
            err = process.communicate(timeout=10)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.communicate()
            self.skipTest("this kernel does not count rings against RLIMIT_MEMLOCK")
        self.assertEqual(process.returncode, 1, err)
        self.assertRegex(err, r"(?i)memlock")

    def test_no_io_uring(self):
        probe = subprocess.run(["true"], preexec_fn=refuse_io_uring, check=False)
        if probe.returncode != 0 or os.uname().machine != "x86_64":
            self.skipTest("no seccomp filters here")
        status, err, _ = run(*self.addresses(), preexec=refuse_io_uring)
        self.assertEqual(status, 1, err)
        self.assertIn("io_uring", err)
        self.assertRegex(err, r"seccomp|io_uring_disabled")


if __name__ == "__main__":
    main()
