"""Servers for the comparisons: started on free ports in a folder of their own, measured through
/proc, and ended whatever happens."""
import atexit
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("LOCKER_BUILD", ROOT / "build-release"))
LOCKERD = BUILD / "src/server/lockerd"
LOCKER = BUILD / "tools/locker"
LOCKER_BENCH = BUILD / "bench/locker-bench"
REDLOCK_BENCH = BUILD / "bench/redlock-bench"

_running = []
_dir = None


def prepare(*groups):
    """Install packages, and build with optimisation unless LOCKER_BUILD names a build."""
    subprocess.run([ROOT / "tools/install_deps", "build", *groups], check=True)
    if "LOCKER_BUILD" not in os.environ:
        if not (BUILD / "build.ninja").exists():
            subprocess.run(["meson", "setup", BUILD, ROOT, "--buildtype=release",
                            "-Dtests=disabled"], check=True, stdout=subprocess.DEVNULL)
        elif "bench" in groups and not REDLOCK_BENCH.exists():
            # Configured before hiredis was there.
            subprocess.run(["meson", "setup", "--reconfigure", BUILD, ROOT], check=True,
                           stdout=subprocess.DEVNULL)
        subprocess.run(["ninja", "-C", BUILD, "--quiet"], check=True, stdout=sys.stderr)
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, lambda *_: sys.exit(1))


def _clean():
    for server in list(_running):
        server.stop()
    if _dir:
        shutil.rmtree(_dir, ignore_errors=True)


def folder():
    global _dir
    if _dir is None:
        _dir = tempfile.mkdtemp(prefix="locker-bench.")
        atexit.register(_clean)
    return _dir


def free_ports(n):
    """All at once, so that they differ."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def on_core(core, command):
    """The command, confined to a core (None: wherever)."""
    command = [str(word) for word in command]
    return command if core is None else ["taskset", "-c", str(core), *command]


class Server:
    def __init__(self, name, port, command, core):
        self.name, self.port = name, port
        self.log_path = os.path.join(folder(), f"{name}.{port}.log")
        self.line = on_core(core, command)
        self.start_again()
        _running.append(self)

    def start_again(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.line, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        if self in _running:
            _running.remove(self)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def cpu_seconds(self):
        """User and system time of all its threads (exited ones too)."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def check(self):
        if self.process.poll() is not None:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                raise SystemExit(f"{self.name} ended with {self.process.returncode}:\n"
                                 + "".join(log.readlines()[-15:]))

    def command(self, *words, text=False):
        """One command, one line of its reply (enough for integers and errors); @text: the text
        that follows."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as s:
            s.sendall(b"*%d\r\n" % len(words) + b"".join(
                b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words))
            reply = s.makefile("rb")
            line = reply.readline().decode().strip()
            return reply.read(int(line[1:])).decode() if text and line[:1] == "$" else line

    def info(self):
        """{field: value} of INFO locker."""
        lines = self.command("INFO", "locker", text=True).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def wait_until(self, words, good, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            try:
                reply = self.command(*words)
                if good(reply):
                    return
            except OSError as error:
                reply = str(error)
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name} on port {self.port}: still '{reply}'")
            time.sleep(0.05)


def start_redis(core=None):
    port, = free_ports(1)
    server = Server("redis-server", port, [
        "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no",
        "--dir", folder()], core)
    server.wait_until(["PING"], lambda r: r == "+PONG")
    return server


def start_lockers(n=1, core=None, options=(), ephemeral=True):
    """@n nodes, one thread each; @core: all of them there."""
    ports = free_ports(2 * n)
    masters = ",".join(f"{i + 1}=127.0.0.1:{ports[n + i]}" for i in range(n))
    pin = "off" if core is None else str(core)
    nodes = []
    for i in range(n):
        nodes.append(Server("lockerd", ports[i], [
            LOCKERD, "--id", i + 1, "--listen", f"127.0.0.1:{ports[i]}",
            "--peer-listen", f"127.0.0.1:{ports[n + i]}", "--cluster", "bench",
            "--masters", masters, "--threads", 1, "--pin", pin, "--new-cluster",
            *(["--ephemeral"] if ephemeral else ["--state-dir", os.path.join(folder(), str(i))]),
            *options], core))
        nodes[-1].peer_address = f"127.0.0.1:{ports[n + i]}"
    for node in nodes:
        node.wait_until(["LAG"], lambda r: r.startswith(("*", "%")))
    return nodes


def join_locker(member, number, options=()):
    """One more node, one thread, that waits to be named by SETNODES."""
    port, peer_port = free_ports(2)
    node = Server("lockerd", port, [
        LOCKERD, "--id", number, "--listen", f"127.0.0.1:{port}",
        "--peer-listen", f"127.0.0.1:{peer_port}", "--cluster", "bench",
        "--join", member.peer_address, "--threads", 1, "--pin", "off",
        "--state-dir", os.path.join(folder(), f"joined{number}"), *options], None)
    node.wait_until(["LAG"], lambda r: r.startswith(("*", "%")))
    return node


def locker_bench(nodes, *words, core=None):
    """Its JSON."""
    done = subprocess.run(
        on_core(core, [LOCKER_BENCH, "--json", "--quiet", "--node",
                       ",".join(n.address for n in nodes), *words]),
        capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"locker-bench ended with {done.returncode}: {done.stderr}{done.stdout}")
    result = json.loads(done.stdout)
    if result["errors"]:
        print(f"errors: {result['errors']}", file=sys.stderr)
    return result


def progress(text):
    print(text, file=sys.stderr, flush=True)
