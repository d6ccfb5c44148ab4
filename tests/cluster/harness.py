"""Real lockerd processes on the loopback, and a small client to speak to them.

Every test process uses a loopback address of its own (127.64.0.0/10, made of its process id), so
files run side by side with fixed ports and without a race for free ones.

Environment: LOCKERD, LOCKER_CLI: the programs under test.
"""
import faulthandler
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

LOCKERD = os.environ.get("LOCKERD", "build/src/server/lockerd")
LOCKER_CLI = os.environ.get("LOCKER_CLI", "build/tools/locker")
CLUSTER_NAME = "test"

SANITIZER = re.compile(
    r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|UndefinedBehaviorSanitizer|runtime error:"
    r"|check failed|CHECK\(")


def sanitized():
    """Does the program under test carry a sanitizer (and is several times slower)?"""
    with open(LOCKERD, "rb") as program:
        return b"__asan_init" in program.read()


# ---- a client ----

class RespError(Exception):
    """An error reply. Commands return it, they do not raise it."""

    def __init__(self, text):
        super().__init__(text)
        self.text = text
        self.word = text.split(" ")[0]

    def __eq__(self, other):
        return isinstance(other, RespError) and other.text == self.text

    __hash__ = Exception.__hash__


class Push(list):
    """A RESP3 push."""


class Closed(Exception):
    """The server closed the connection."""


def encode(*args):
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if not isinstance(arg, bytes):
            arg = str(arg).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(arg), arg))
    return b"".join(parts)


class Client:
    """One connection. Simple strings and bulks are bytes, null is None, maps are dicts (RESP3)."""

    def __init__(self, address, resp3=False, timeout=20):
        host, port = address.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = bytearray()
        if resp3:
            reply = self.cmd("HELLO", 3)
            if isinstance(reply, RespError):
                raise reply

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, *args):
        self.sock.sendall(encode(*args))

    def cmd(self, *args):
        self.send(*args)
        return self.read()

    def pipeline(self, commands):
        self.sock.sendall(b"".join(encode(*c) for c in commands))
        return [self.read() for _ in commands]

    def _fill(self):
        try:
            more = self.sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Closed() from error
        if not more:
            raise Closed()
        self.data += more

    def _line(self):
        while True:
            end = self.data.find(b"\r\n")
            if end >= 0:
                line = bytes(self.data[:end])
                del self.data[:end + 2]
                return line
            self._fill()

    def _exact(self, n):
        while len(self.data) < n + 2:
            self._fill()
        body = bytes(self.data[:n])
        if self.data[n:n + 2] != b"\r\n":
            raise AssertionError(f"bulk does not end in CRLF: {bytes(self.data[:n + 2])!r}")
        del self.data[:n + 2]
        return body

    def read(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RespError(rest.decode("utf-8", "replace"))
        if kind in (b":", b"("):
            return int(rest)
        if kind == b",":
            return float(rest)
        if kind == b"#":
            return rest == b"t"
        if kind == b"_":
            return None
        if kind == b"$":
            return None if rest == b"-1" else self._exact(int(rest))
        if kind == b"=":
            return self._exact(int(rest))[4:]
        if kind in (b"*", b"~", b">"):
            if rest == b"-1":
                return None
            items = [self.read() for _ in range(int(rest))]
            return Push(items) if kind == b">" else items
        if kind == b"%":
            return dict((self.read(), self.read()) for _ in range(int(rest)))
        raise AssertionError(f"not a reply: {line!r}")

    def at_end(self, timeout=10):
        """Did the server close, now or within @timeout? Whatever it still sends is dropped."""
        self.sock.settimeout(timeout)
        try:
            while True:
                self._fill()
                self.data.clear()
        except Closed:
            return True
        except (socket.timeout, TimeoutError):
            return False


def as_map(reply):
    """The map of a reply in either dialect."""
    if isinstance(reply, dict):
        return reply
    if isinstance(reply, list) and len(reply) % 2 == 0:
        return dict(zip(reply[::2], reply[1::2]))
    raise AssertionError(f"not a map: {reply!r}")


def node_rows(client):
    """{id: its map} as this node sees the others, from NODES."""
    reply = as_map(client.cmd("NODES"))
    return {n[b"id"]: n for n in map(as_map, reply[b"nodes"])}


def node_states(client):
    """{id: (state, links)} likewise."""
    return {i: (n[b"state"], n[b"links"]) for i, n in node_rows(client).items()}


def eventually(condition, what, timeout=30.0, pause=0.02):
    """Poll until @condition() is true; returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened within {timeout:g} s: {what}")
        time.sleep(pause)


# ---- processes ----

def _own_host():
    pid = os.getpid()
    return f"127.{64 + (pid >> 16 & 63)}.{pid >> 8 & 255}.{pid & 255}"


_ports = iter(range(20001, 32000))
_live = []


def free_address():
    return f"{_own_host()}:{next(_ports)}"


class Node:
    """One lockerd. With @join, the address of a member: it enters a cluster that runs."""

    def __init__(self, cluster, number, join=None):
        self.cluster = cluster
        self.id = number
        self.join = join
        self.address = free_address()
        self.peer_address = free_address()
        self.state_dir = os.path.join(cluster.dir, f"node{number}")
        self.log_path = os.path.join(cluster.dir, f"node{number}.log")
        # For every start: words in front of the program, environment, options of this node alone.
        self.prefix = ()
        self.env = {}
        self.options = {}
        self.process = None
        self.log_start = 0
        self.threads = 1

    def command(self, **more):
        options = {
            "id": self.id,
            "listen": self.address,
            "peer_listen": self.peer_address,
            "cluster": CLUSTER_NAME,
            "masters": None if self.join else self.cluster.masters(self),
            "join": self.join,
            "threads": 1,
            "pin": "off",
            "spin_us": 0,
            "state_dir": self.state_dir,
            "new_cluster": not self.join,
        }
        options.update(self.cluster.options)
        options.update(self.options)
        options.update(more)
        if options.get("ephemeral"):
            options["state_dir"] = None
        self.threads = options["threads"]
        line = [LOCKERD]
        for name, value in options.items():
            if value is None or value is False:
                continue
            line.append("--" + name.replace("_", "-"))
            if value is not True:
                line.append(str(value))
        return line

    def spawn(self, prefix=(), preexec=None, **more):
        assert self.process is None, f"node {self.id} runs already"
        os.makedirs(self.state_dir, exist_ok=True)
        with open(self.log_path, "ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                [*self.prefix, *prefix, *self.command(**more)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, preexec_fn=preexec, env={**os.environ, **self.env})

    def start(self, timeout=30, **more):
        self.spawn(**more)
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=30):
        def ready():
            status = self.process.poll()
            if status is not None:
                raise AssertionError(
                    f"node {self.id} ended with {status}:\n{self.log()}")
            return re.search(r"\bready\b", self.log())
        eventually(ready, f"node {self.id} is ready\n", timeout)

    def log(self):
        """What it said since its last start."""
        with open(self.log_path, "rb") as log:
            log.seek(self.log_start)
            return log.read().decode("utf-8", "replace")

    def all_log(self):
        try:
            with open(self.log_path, "rb") as log:
                return log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def running(self):
        return self.process is not None and self.process.poll() is None

    def client(self, **more):
        return Client(self.address, **more)

    def send_signal(self, number):
        self.process.send_signal(number)

    def pause(self):
        """Returns when every thread stands: right after the signal they may still answer."""
        self.send_signal(signal.SIGSTOP)
        tasks = f"/proc/{self.process.pid}/task"

        def stands():
            for task in os.listdir(tasks):
                with open(f"{tasks}/{task}/stat", encoding="ascii", errors="replace") as stat:
                    if stat.read().rsplit(")", 1)[1].split()[0] not in "Tt":
                        return False
            return True
        eventually(stands, f"node {self.id} stands still", pause=0.001)

    def resume(self):
        self.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None
        self.wait_ports_free()

    def wait_ports_free(self):
        """The kernel closes what a killed process left in its rings a little after its end."""
        def free():
            for address in (self.address, self.peer_address):
                host, port = address.rsplit(":", 1)
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((host, int(port)))
                        probe.listen()
                    except OSError:
                        return False
            return True
        eventually(free, f"the ports of node {self.id} are free")

    def wait_exit(self, timeout=30):
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise AssertionError(f"node {self.id} did not end:\n{self.log()}") from error
        self.process = None
        return status

    def terminate(self, number=signal.SIGTERM, timeout=30):
        self.send_signal(number)
        return self.wait_exit(timeout)

    def rss_bytes(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()


class Cluster:
    """@n nodes, all of them masters, and those that are added. Keyword arguments become options of
    lockerd."""
    node_class = Node

    def __init__(self, n=3, start=True, **options):
        self.dir = tempfile.mkdtemp(prefix="locker-test.")
        self.options = options
        self.nodes = []
        for number in range(1, n + 1):
            self.nodes.append(self.node_class(self, number))
        self.founders = list(self.nodes)
        _live.append(self)
        try:
            if start:
                self.start()
        except BaseException:
            self.abandon()
            raise

    def peer_address(self, reader, node):
        """Where @reader finds @node."""
        return node.peer_address

    def masters(self, reader):
        """The first list of masters as the node @reader gets it."""
        return ",".join(f"{n.id}={self.peer_address(reader, n)}" for n in self.founders)

    def add_node(self, join=None, start=True, **options):
        """One more, that knows the address of the member @join (the first one's) and waits, once
        it is started, until it is named. Returns when that one sees it."""
        member = join or self.nodes[0]
        node = self.node_class(self, len(self.nodes) + 1, join=member.peer_address)
        node.options.update(options)
        self.nodes.append(node)
        if start:
            node.start()
            self.wait_known(node, member)
        return node

    def wait_known(self, node, by):
        def known():
            with by.client() as client:
                row = node_rows(client).get(node.id)
            return row and row[b"state"] != b"down" and row[b"epoch"] > 0
        eventually(known, f"node {node.id} is known to node {by.id}")

    def set_nodes(self, masters, replicas=None, by=None, timeout=180):
        """The reply of SETNODES, given to @by (the first one). Ids or nodes."""
        words = ["SETNODES", "MASTERS", *(getattr(n, "id", n) for n in masters)]
        if replicas is not None:
            words += ["REPLICAS", *(getattr(n, "id", n) for n in replicas)]
        with (by or self.nodes[0]).client(timeout=timeout) as client:
            return client.cmd(*words)

    def wait_copied(self, node, timeout=60):
        """Until the replica has a copy of all."""
        def copied():
            with node.client() as client:
                row = node_rows(client)[node.id]
            return (row[b"role"], row[b"state"]) == (b"replica", b"active") and row[b"lag-ms"] >= 0
        eventually(copied, f"node {node.id} has a copy", timeout)

    def set_nodes_at_last(self, masters, replicas=None, by=None, tries=20):
        """Repeat it as long as the answer is one that may pass, as its contract says."""
        for _ in range(tries):
            reply = self.set_nodes(masters, replicas, by)
            if not isinstance(reply, RespError) or reply.word not in (
                    "BUSY", "NOTREADY", "NOQUORUM"):
                break
            time.sleep(0.2)
        return reply

    def __getitem__(self, number):
        """Nodes count from 1."""
        return self.nodes[number - 1]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.abandon()

    def start(self, timeout=30):
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_ready(timeout)
        self.wait_active(timeout)

    def wait_active(self, timeout=30, nodes=None):
        """Until every node in @nodes (all) sees every node in @nodes active."""
        nodes = nodes or self.nodes

        wanted = {n.id for n in nodes}
        threads = {n.id: n.threads for n in nodes}

        def all_active():
            for node in nodes:
                with node.client() as client:
                    seen = node_states(client)
                if not wanted <= {i for i, (state, _) in seen.items() if state == b"active"}:
                    return False
                for other in wanted - {node.id}:
                    if seen[other][1] < min(threads[other], node.threads):
                        return False
            return True
        eventually(all_active, "all nodes see one another active", timeout)

    def addresses(self):
        return ",".join(n.address for n in self.nodes)

    def close(self):
        """End what runs, and insist on clean ends and clean logs."""
        wrong = []
        running = [n for n in self.nodes if n.running()]
        for node in self.nodes:
            if node.process is not None and not node.running():
                wrong.append(f"node {node.id} ended by itself with {node.process.returncode}")
                node.process = None
        for node in running:
            node.resume()
            node.send_signal(signal.SIGTERM)
        for node in running:
            try:
                status = node.wait_exit()
                if status != 0:
                    wrong.append(f"node {node.id} ended with {status} on SIGTERM")
            except AssertionError as error:
                wrong.append(str(error))
        for node in self.nodes:
            log = node.all_log()
            found = SANITIZER.search(log)
            if found:
                wrong.append(f"node {node.id}:\n{log[max(0, found.start() - 200):][:6000]}")
        if wrong:
            self.show_logs()
        self.abandon()
        if wrong:
            raise AssertionError("\n".join(wrong))

    def abandon(self):
        for node in self.nodes:
            if node.running():
                node.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in _live:
            _live.remove(self)

    def show_logs(self, lines=25):
        for node in self.nodes:
            tail = node.all_log().splitlines()[-lines:]
            print(f"--- node {node.id} ({node.address})", *tail, sep="\n", file=sys.stderr)


class ClusterCase(unittest.TestCase):
    """Tests on one cluster that all of them share; they use keys of their own."""
    options = {}
    nodes = 3

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(cls.nodes, **cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def setUp(self):
        self.key = self.id().split(".")[-1]

    def connect(self, number=1, **more):
        client = self.cluster[number].client(**more)
        self.addCleanup(client.close)
        return client

    def assertError(self, reply, word):
        self.assertIsInstance(reply, RespError, f"expected {word}, got {reply!r}")
        self.assertEqual(reply.word, word, reply.text)

    def assertGranted(self, reply):
        """The map of a grant; its counts agree with one another."""
        if reply is None or isinstance(reply, RespError):
            self.fail(f"not granted: {reply!r}")
        grant = as_map(reply)
        self.assertGreater(grant[b"token"], 0)
        self.assertGreaterEqual(grant[b"votes"], grant[b"quorum"])
        self.assertGreaterEqual(grant[b"commits"], grant[b"quorum"])
        return grant


def background(function, *args):
    """Run in a thread; join() gives its result or raises its exception."""
    box = {}

    def body():
        try:
            box["value"] = function(*args)
        except BaseException as error:  # handed to the joining thread
            box["error"] = error
    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    def join(timeout=60):
        thread.join(timeout)
        if thread.is_alive():
            raise AssertionError(f"{function} still runs after {timeout} s")
        if "error" in box:
            raise box["error"]
        return box["value"]
    return join


class _Result(unittest.TextTestResult):
    def addError(self, test, err):
        super().addError(test, err)
        for cluster in _live:
            cluster.show_logs()

    def addFailure(self, test, err):
        super().addFailure(test, err)
        for cluster in _live:
            cluster.show_logs()


def main():
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if not os.access(LOCKERD, os.X_OK):
        print(f"no lockerd at {LOCKERD}; set LOCKERD", file=sys.stderr)
        sys.exit(1)
    try:
        unittest.main(module="__main__", verbosity=2,
                      testRunner=unittest.TextTestRunner(resultclass=_Result, verbosity=2))
    finally:
        for cluster in list(_live):
            cluster.abandon()
