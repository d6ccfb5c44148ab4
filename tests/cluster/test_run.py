#!/usr/bin/env python3
"""Commands that run under a lock: `locker run`, `elect`, `observe`.

Who ran when is judged by one clock: the commands write lines with the time of this machine
(CLOCK_MONOTONIC) into files, and the tests read the same clock.
"""
import contextlib
import json
import os
import pty
import random
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from harness import (LOCKER_CLI, Cluster, ClusterCase, RespError, background, eventually,
                     free_address, main)

LOST, NOT_ACQUIRED, USAGE, CANNOT_RUN, NOT_FOUND = range(123, 128)

# A command that says when it was alive: a line "start TIME PID TOKEN", then "beat TIME" every few
# milliseconds. Words: FILE, how long, and what to do with SIGTERM.
WORKER = r"""
import os, signal, sys, time
path, seconds, on_term = sys.argv[1], float(sys.argv[2]), sys.argv[3]
out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def say(*words):
    os.write(out, (" ".join(map(str, words)) + "\n").encode())
def term(number, frame):
    say("signal", time.monotonic(), os.getpid(), number)
    if on_term == "end":
        sys.exit(40)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, term)
if len(sys.argv) > 4:
    os.fork()
say("start", time.monotonic(), os.getpid(), os.environ["LOCKER_TOKEN"])
end = time.monotonic() + seconds
while time.monotonic() < end:
    say("beat", time.monotonic(), os.getpid())
    time.sleep(0.005)
say("end", time.monotonic(), os.getpid())
"""


class Diary:
    """What a worker has written."""

    def __init__(self, case):
        handle, self.path = tempfile.mkstemp(prefix="locker-run.")
        os.close(handle)
        case.addCleanup(os.unlink, self.path)

    def command(self, seconds, on_term="end", *more):
        return [sys.executable, "-c", WORKER, self.path, str(seconds), on_term, *more]

    def lines(self, kind=None):
        with open(self.path, encoding="ascii") as diary:
            found = [line.split() for line in diary.read().splitlines()]
        return [line for line in found if len(line) >= 3 and kind in (None, line[0])]

    def wait_start(self, n=1):
        return eventually(lambda: len(self.lines("start")) >= n and self.lines("start"),
                          f"{n} workers started")

    def last(self):
        return max(float(line[1]) for line in self.lines())

    def first(self):
        return min(float(line[1]) for line in self.lines("start"))


def exists(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    """Their process ids, in text."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as stat:
                if stat.read().rsplit(")", 1)[1].split()[1] == str(pid):
                    found.append(entry)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def default_signals():
    """Whoever runs the tests in the background may have some ignored, and the program keeps that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Runs:
    """Mixed into test cases: starts the program, and leaves nothing running."""

    def spawn(self, *words, nodes=None, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        more.setdefault("preexec_fn", default_signals)
        process = subprocess.Popen(
            [LOCKER_CLI, "--node", nodes or self.cluster.addresses(), *map(str, words)], **more)
        self.addCleanup(self.clear, process)
        return process

    @staticmethod
    def clear(process):
        if process.poll() is None:
            process.kill()
        process.communicate()

    def end(self, process, timeout=60):
        """(exit status, stdout, stderr)"""
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    def run_under(self, *words, **more):
        return self.end(self.spawn("run", *words, **more))

    def assertRun(self, done, status):
        self.assertEqual(done[0], status, done)


class Statuses(Runs, ClusterCase):
    def test_the_status_of_the_command(self):
        for status in (0, 1, 7, 42, 255):
            done = self.run_under(self.key, "--", "sh", "-c", f"exit {status}")
            self.assertRun(done, status)
            self.assertEqual(done[2], b"")
        self.assertRun(self.run_under(self.key, "--", "sh", "-c", "kill -9 $$"), 137)
        self.assertRun(self.run_under(self.key, "--", "sh", "-c", "kill -TERM $$"), 143)

    def test_command_that_cannot_be_run(self):
        done = self.run_under(self.key, "--", "/nosuch/command")
        self.assertRun(done, NOT_FOUND)
        self.assertIn(b"not found", done[2])
        self.assertRun(self.run_under(self.key, "--", "no-such-command"), NOT_FOUND)
        done = self.run_under(self.key, "--", "/etc/passwd")
        self.assertRun(done, CANNOT_RUN)
        self.assertIn(b"/etc/passwd", done[2])
        with self.cluster[1].client() as client:
            self.assertIsNone(client.cmd("READ", self.key, "QUORUM"))

    def test_environment_and_streams(self):
        script = 'read line; echo "$line|$LOCKER_KEY|$LOCKER_VALUE|$LOCKER_TOKEN|$1"; echo e >&2'
        process = self.spawn("run", self.key, "--value", "it is me", "--", "sh", "-c", script, "x",
                             "two words", stdin=subprocess.PIPE,
                             env={**os.environ, "LOCKER_TOKEN": "old"})
        out, err = process.communicate(b"input\n", timeout=60)
        self.assertEqual((process.returncode, err), (0, b"e\n"))
        self.assertRegex(out.decode(), rf"^input\|{self.key}\|it is me\|\d+\|two words\n$")

    def test_value_and_token_are_those_of_the_holder(self):
        script = 'echo "$LOCKER_VALUE $LOCKER_TOKEN"; read line'
        process = self.spawn("run", self.key, "--", "sh", "-c", script, stdin=subprocess.PIPE)
        value, token = process.stdout.readline().split()
        with self.cluster[2].client(resp3=True) as client:
            holder = client.cmd("HOLDER", self.key, "QUORUM")
            self.assertEqual((holder[b"value"], holder[b"token"]), (value, int(token)))
        self.assertIn(str(process.pid).encode(), value)
        process.communicate(b"\n", timeout=60)
        self.assertEqual(process.returncode, 0)

    def test_released_at_the_end(self):
        for script in ("exit 3", "kill -9 $$"):
            self.run_under(self.key, "--ttl", "50s", "--", "sh", "-c", script)
            with self.cluster[1].client() as client:
                self.assertIsNone(client.cmd("READ", self.key, "QUORUM"))

    def test_held_by_another(self):
        with self.cluster[1].client() as client:
            self.assertGranted(client.cmd("LOCK", self.key, "other", 20000))
        done = self.run_under(self.key, "--", "echo", "no")
        self.assertRun(done, NOT_ACQUIRED)
        self.assertEqual(done[1], b"")
        self.assertIn(b"held by another", done[2])
        began = time.monotonic()
        self.assertRun(self.run_under(self.key, "--wait", "700ms", "--", "echo"), NOT_ACQUIRED)
        self.assertGreater(time.monotonic() - began, 0.6)

    def test_nobody_there(self):
        done = self.run_under(self.key, "--", "true", nodes=free_address())
        self.assertRun(done, NOT_ACQUIRED)

    def test_beyond_the_longest_lease_of_the_cluster(self):
        done = self.run_under(self.key, "--ttl", "2h", "--", "true")
        self.assertRun(done, NOT_ACQUIRED)
        self.assertIn(b"LIMIT", done[2])

    def test_wrong_usage(self):
        k = self.key
        for words in (["run"], ["run", k], ["run", k, "--"], ["run", "--", "true"],
                      ["run", k, "true"], ["run", "", "--", "true"],
                      ["run", "k" * 513, "--", "true"], ["run", k, "--ttl", "--", "true"],
                      ["run", k, "--ttl", "soon", "--", "true"],
                      ["run", k, "--ttl", "0", "--", "true"],
                      ["run", k, "--ttl", "99ms", "--", "true"],
                      ["run", k, "--ttl", "25h", "--", "true"],
                      ["run", k, "--wait", "x", "--", "true"],
                      ["run", k, "--ttl", "2s", "--kill-grace", "1001ms", "--", "true"],
                      ["run", k, "--value", "v" * 4097, "--", "true"],
                      ["run", k, "--nosuch", "--", "true"], ["run", k, "--id", "x", "--", "true"],
                      ["run", k, "more", "--", "true"], ["--json", "run", k, "--", "true"],
                      ["--node", "nonsense", "run", k, "--", "true"], ["run", k, "--timeout"],
                      ["elect", k], ["elect", k, "--wait", "1s", "--", "true"],
                      ["elect", k, "--value", "x", "--", "true"]):
            done = self.end(self.spawn(*words))
            self.assertRun(done, USAGE)
            self.assertNotEqual(done[2], b"", words)
        for words in (["observe"], ["observe", k, "more"], ["observe", "--nosuch", k],
                      ["--node", "nonsense", "observe", k]):
            self.assertRun(self.end(self.spawn(*words)), 2)

    def test_help(self):
        for command in ("run", "elect", "observe"):
            status, out, _ = self.end(self.spawn(command, "--help"))
            self.assertEqual(status, 0)
            self.assertIn(b"usage: locker " + command.encode(), out)
        # After the --, words are the command's.
        self.assertEqual(self.run_under(self.key, "--", "echo", "--help", "--json")[1],
                         b"--help --json\n")


class Contention(Runs, ClusterCase):
    def test_two_never_overlap(self):
        diaries = [Diary(self) for _ in range(3)]
        processes = [
            self.spawn("run", self.key, "--wait", "60s", "--", *diary.command(0.5))
            for diary in diaries]
        for process in processes:
            self.assertRun(self.end(process), 0)
        spans = sorted((diary.first(), diary.last()) for diary in diaries)
        for (_, before), (after, _) in zip(spans, spans[1:]):
            self.assertLess(before, after)
        tokens = [int(d.lines("start")[0][3]) for d in sorted(diaries, key=Diary.first)]
        self.assertEqual(tokens, sorted(set(tokens)))

    def test_the_same_value_is_not_the_same_holder(self):
        first = Diary(self)
        process = self.spawn("run", self.key, "--value", "v", "--", *first.command(30))
        first.wait_start()
        self.assertRun(self.run_under(self.key, "--value", "v", "--", "true"), NOT_ACQUIRED)
        process.terminate()
        self.assertRun(self.end(process), 40)

    def test_longer_than_the_lease(self):
        diary = Diary(self)
        began = time.monotonic()
        process = self.spawn("run", self.key, "--ttl", "1s", "--", *diary.command(4))
        diary.wait_start()
        with self.cluster[1].client() as client:
            while process.poll() is None and time.monotonic() - began < 4:
                self.assertIsNone(client.cmd("LOCK", self.key, "thief", 1000))
                time.sleep(0.1)
        self.assertRun(self.end(process), 0)
        self.assertEqual(len(diary.lines("end")), 1)

    def test_broken_by_somebody_else(self):
        diary = Diary(self)
        process = self.spawn("run", self.key, "--ttl", "3s", "--value", "v", "--",
                             *diary.command(30, "stay"))
        diary.wait_start()
        with self.cluster[1].client() as client:
            self.assertGranted(client.cmd("RELEASE", self.key, "v"))
        done = self.end(process)
        self.assertRun(done, LOST)
        self.assertIn(b"lost", done[2])
        self.assertEqual(diary.lines("end"), [])

    def test_nobody_reads_what_it_says(self):
        """Its stderr is full when the lock is lost: the command is stopped all the same."""
        diary = Diary(self)
        theirs, ours = os.pipe()
        self.addCleanup(os.close, theirs)
        os.set_blocking(ours, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(ours, b"x" * 4096)
        os.set_blocking(ours, True)
        process = self.spawn("run", self.key, "--ttl", "3s", "--value", "v", "--",
                             *diary.command(60, "stay"), stderr=ours)
        os.close(ours)
        worker = diary.wait_start()[0][2]
        with self.cluster[1].client() as client:
            self.assertGranted(client.cmd("RELEASE", self.key, "v"))
        eventually(lambda: not exists(worker), "the command is gone")
        os.read(theirs, 1 << 20)
        process.wait(60)
        self.assertEqual(process.returncode, LOST)

    def test_a_waiter_that_is_interrupted_leaves(self):
        with self.cluster[1].client() as client:
            self.assertGranted(client.cmd("LOCK", self.key, "other", 20000))
            process = self.spawn("run", self.key, "--wait", "60s", "--", "true")
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            self.assertRun(self.end(process), -signal.SIGINT)
            self.assertGranted(client.cmd("RELEASE", self.key, "other"))
            time.sleep(0.3)
            self.assertIsNone(client.cmd("READ", self.key, "QUORUM"))


class Signals(Runs, ClusterCase):
    def test_forwarded(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            diary = Diary(self)
            process = self.spawn("run", f"{self.key}{number}", "--", *diary.command(30))
            diary.wait_start()
            process.send_signal(number)
            self.assertRun(self.end(process), 40)
            self.assertEqual([int(line[3]) for line in diary.lines("signal")], [number])

    def test_a_command_that_ignores_them_goes_on(self):
        diary = Diary(self)
        process = self.spawn("run", self.key, "--", *diary.command(2, "stay"))
        diary.wait_start()
        process.terminate()
        self.assertRun(self.end(process), 0)
        self.assertEqual(len(diary.lines("end")), 1)

    def test_what_is_left_of_the_group_is_stopped(self):
        diary = Diary(self)
        words = " ".join(f"'{word}'" for word in diary.command(60, "end")[3:])
        script = f'"$0" -c "$1" {words} & while ! [ -s {diary.path} ]; do sleep 0.1; done; exit 9'
        process = self.spawn("run", self.key, "--", "sh", "-c", script, sys.executable, WORKER)
        self.assertRun(self.end(process), 9)
        self.assertEqual(len(diary.lines("signal")), 1)
        self.assertFalse(exists(diary.lines("start")[0][2]))

    def test_parent_killed(self):
        diary = Diary(self)
        process = self.spawn("run", self.key, "--", *diary.command(60, "stay", "fork"))
        started = diary.wait_start(2)
        process.kill()
        process.wait()
        for line in started:
            eventually(lambda pid=line[2]: not exists(pid), "the whole group is gone")
        self.assertEqual(len(diary.lines("end")), 0)

    def test_parent_killed_after_its_guard(self):
        diary = Diary(self)
        process = self.spawn("run", self.key, "--", *diary.command(60, "stay"))
        worker = diary.wait_start()[0][2]
        guards = [pid for pid in children(process.pid) if pid != worker]
        self.assertEqual(len(guards), 1)
        os.kill(int(guards[0]), signal.SIGKILL)
        process.kill()
        process.wait()
        eventually(lambda: not exists(worker), "the command is gone")

    def test_parent_stopped_for_longer_than_the_lease(self):
        diary = Diary(self)
        process = self.spawn("run", self.key, "--ttl", "3s", "--",
                             *diary.command(60, "stay", "fork"))
        started = diary.wait_start(2)
        process.send_signal(signal.SIGSTOP)
        self.addCleanup(process.send_signal, signal.SIGCONT)
        with self.cluster[1].client(timeout=60) as client:
            self.assertGranted(client.cmd("LOCK", self.key, "next", 5000, "WAIT", 30000))
            granted = time.monotonic()
        self.assertLess(diary.last(), granted)
        for line in started:
            self.assertFalse(exists(line[2]))
        process.send_signal(signal.SIGCONT)
        self.assertRun(self.end(process), LOST)

    def test_ctrl_c_and_ctrl_z_on_a_terminal(self):
        """The command reads the terminal; Ctrl-Z stops the job, for its shell to go on with; Ctrl-C
        ends it."""
        ours, theirs = pty.openpty()
        shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "-i"], stdin=theirs, stdout=theirs,
            stderr=theirs, start_new_session=True,
            env={**os.environ, "PS1": "$ ", "HISTFILE": ""},
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)))
        os.close(theirs)
        self.screen = b""

        def clear():
            for pid in [*children(shell.pid), shell.pid]:
                os.kill(int(pid), signal.SIGKILL)
            shell.wait()
            os.close(ours)
        self.addCleanup(clear)

        def sees(text):
            if select.select([ours], [], [], 0)[0]:
                self.screen += os.read(ours, 65536)
            return text in self.screen

        def enter(line):
            self.screen = b""
            os.write(ours, line)
        # No shell: one that is stopped in vfork() is not stopped to its parent.
        script = "import time; print('run' + 'ning'); print('got ' + input()); time.sleep(50)"
        enter(shlex.join([LOCKER_CLI, "--node", self.cluster.addresses(), "run", self.key, "--ttl",
                          "30s", "--", sys.executable, "-c", script]).encode() + b"\n")
        eventually(lambda: sees(b"running\r\n"), "it runs")
        enter(b"hello\n")
        eventually(lambda: sees(b"got hello"), "it reads the terminal")
        enter(b"\x1a")
        eventually(lambda: sees(b"Stopped"), "the job is stopped")
        enter(b"fg\n")
        eventually(lambda: sees(b"sleep(50)"), "it goes on")
        time.sleep(0.3)
        enter(b"\x03")
        eventually(lambda: sees(b"$ "), "it ends")
        enter(b"echo status $?\n")
        eventually(lambda: sees(b"status 130\r\n"), "the status")
        enter(b"exit\n")


class Failures(Runs, unittest.TestCase):
    """Each on a cluster of its own, whose nodes are stopped and killed."""

    def setUp(self):
        self.key = self.id().split(".")[-1]

    def cluster_of(self, n, **options):
        self.cluster = Cluster(n, attempt_time=500, **options)
        self.addCleanup(self.cluster.abandon)

    def check_gone_before_the_next(self, process, diary):
        """All nodes stand still. The command has to be gone before another can be granted."""
        done = self.end(process)
        self.assertRun(done, LOST)
        self.assertIn(b"cannot be extended", done[2])
        self.assertEqual(diary.lines("end"), [])
        for node in self.cluster.nodes:
            node.resume()
        with self.cluster[1].client(timeout=60) as client:
            eventually(lambda: isinstance(client.cmd("LOCK", self.key, "next", 5000), (dict, list)),
                       "the next one is granted")
            granted = time.monotonic()
        self.assertLess(diary.last(), granted)

    def test_nodes_stopped(self):
        self.cluster_of(3)
        diary = Diary(self)
        process = self.spawn("run", self.key, "--ttl", "5s", "--", *diary.command(60))
        diary.wait_start()
        for node in self.cluster.nodes:
            node.pause()
        paused = time.monotonic()
        self.check_gone_before_the_next(process, diary)
        self.assertEqual(len(diary.lines("signal")), 1)
        # A lease is up to 5 s from the last request, which was sent before they stood.
        self.assertLess(diary.last(), paused + 5)

    def test_a_command_that_ignores_sigterm_and_its_children(self):
        self.cluster_of(3)
        diary = Diary(self)
        process = self.spawn("run", self.key, "--ttl", "5s", "--kill-grace", "500ms", "--",
                             *diary.command(60, "stay", "fork"))
        started = diary.wait_start(2)
        for node in self.cluster.nodes:
            node.pause()
        paused = time.monotonic()
        self.check_gone_before_the_next(process, diary)
        self.assertEqual(len(diary.lines("signal")), 2)
        self.assertLess(diary.last(), paused + 5)
        for line in started:
            self.assertFalse(exists(line[2]))

    def test_nodes_killed(self):
        self.cluster_of(3)
        diary = Diary(self)
        process = self.spawn("run", self.key, "--ttl", "5s", "--", *diary.command(60, "stay"))
        diary.wait_start()
        for node in self.cluster.nodes:
            node.kill()
        killed = time.monotonic()
        done = self.end(process)
        self.assertRun(done, LOST)
        self.assertLess(diary.last(), killed + 5)

    def test_one_holder_at_a_time_through_loss_and_take_over(self):
        """Another waits for the lock meanwhile, at the node that is left out."""
        self.cluster_of(3)
        first, second = Diary(self), Diary(self)
        process = self.spawn("run", self.key, "--ttl", "3s", "--", *first.command(60, "stay"),
                             nodes=self.cluster[1].address)
        first.wait_start()
        other = self.spawn("run", self.key, "--ttl", "3s", "--wait", "60s", "--",
                           *second.command(0.1), nodes=self.cluster[3].address)
        time.sleep(0.5)
        self.cluster[1].pause()
        self.assertRun(self.end(process), LOST)
        self.assertRun(self.end(other), 0)
        self.assertLess(first.last(), second.first())
        self.cluster[1].resume()

    def test_the_connected_node_is_lost(self):
        for what in ("kill", "pause"):
            self.cluster_of(3)
            diary = Diary(self)
            process = self.spawn("run", self.key, "--ttl", "3s", "--", *diary.command(7))
            diary.wait_start()
            getattr(self.cluster[1], what)()
            with self.cluster[2].client() as client:
                began = time.monotonic()
                while time.monotonic() - began < 6:
                    reply = client.cmd("LOCK", self.key, "thief", 1000)
                    self.assertTrue(reply is None or isinstance(reply, RespError), reply)
                    time.sleep(0.2)
            self.assertRun(self.end(process), 0)
            self.cluster.abandon()

    def test_a_waiter_goes_on_at_another_node(self):
        for what in ("kill", "pause"):
            self.cluster_of(3)
            with self.cluster[3].client() as client:
                client.cmd("LOCK", self.key, "other", 30000)
                process = self.spawn("--timeout", "1s", "run", self.key, "--wait", "60s", "--",
                                     "true")
                time.sleep(0.5)
                getattr(self.cluster[1], what)()
                time.sleep(0.5)
                eventually(lambda c=client: not isinstance(
                    c.cmd("RELEASE", self.key, "other"), RespError), "released")
            self.assertRun(self.end(process), 0)
            self.cluster.abandon()

    def test_a_first_node_that_hangs(self):
        self.cluster_of(3)
        self.cluster[1].pause()
        done = self.run_under(self.key, "--", "true")
        self.assertRun(done, 0)


class Storm(Runs, unittest.TestCase):
    SECONDS = int(os.environ.get("LOCKER_TEST_STORM_SECONDS", "15"))

    def contend(self, diary, end):
        """Run after run, most of them longer than the calm between two faults."""
        statuses = []
        while time.monotonic() < end:
            # Those that know one node only lose what the others are granted.
            nodes = random.choice([None, random.choice(self.cluster.nodes).address])
            process = self.spawn("run", "storm", "--ttl", "2s", "--wait", "5s", "--timeout", "1s",
                                 "--", *diary.command(random.uniform(0.1, 3), "stay"),
                                 nodes=nodes)
            self.running.append(process)
            statuses.append(self.end(process)[0])
        return statuses

    def test_never_two_while_nodes_and_runners_are_stopped_and_killed(self):
        seed = int.from_bytes(os.urandom(3), "big")
        print(f"seed {seed}", file=sys.stderr)
        random.seed(seed)
        self.cluster = Cluster(3, attempt_time=500)
        self.addCleanup(self.cluster.abandon)
        self.running = []
        diaries = [Diary(self) for _ in range(4)]
        end = time.monotonic() + self.SECONDS
        joins = [background(self.contend, diary, end) for diary in diaries]
        while time.monotonic() < end:
            time.sleep(random.uniform(0.2, 1.5))
            alive = [p for p in self.running if p.poll() is None]
            if random.random() < 0.6 or not alive:
                victims = random.sample(self.cluster.nodes, random.randint(1, 3))
                for node in victims:
                    node.pause()
                time.sleep(random.uniform(0.1, 3))
                for node in victims:
                    node.resume()
            elif random.random() < 0.5:
                random.choice(alive).kill()
            else:
                victim = random.choice(alive)
                victim.send_signal(signal.SIGSTOP)
                time.sleep(random.uniform(0.1, 3))
                victim.send_signal(signal.SIGCONT)
        statuses = [status for join in joins for status in join(60)]
        self.assertLessEqual(set(statuses), {0, LOST, NOT_ACQUIRED, -signal.SIGKILL})
        spans = {}
        for diary in diaries:
            for line in diary.lines():
                if line[0] == "start":
                    spans[line[2]] = [int(line[3]), float(line[1]), float(line[1])]
                else:
                    spans[line[2]][2] = float(line[1])
        spans = sorted(spans.values())
        for before, after in zip(spans, spans[1:]):
            self.assertLess(before[2], after[1], (before, after))
        print(f"{len(spans)} holders, {statuses.count(0)} ended by themselves, "
              f"{statuses.count(LOST)} lost, {statuses.count(NOT_ACQUIRED)} not acquired",
              file=sys.stderr)


class Elections(Runs, unittest.TestCase):
    def setUp(self):
        self.key = self.id().split(".")[-1]
        self.cluster = Cluster(3, attempt_time=500)
        self.addCleanup(self.cluster.abandon)

    def observe(self, *words):
        process = self.spawn(*words, "observe", self.key)
        os.set_blocking(process.stdout.fileno(), False)
        seen = []

        def lines():
            more = process.stdout.read()
            seen.append(more or b"")
            return b"".join(seen).splitlines()
        return process, lines

    def test_three_candidates(self):
        diary = Diary(self)
        observer, lines = self.observe("--json")
        plain, plain_lines = self.observe()
        eventually(lambda: len(lines()) == 1, "nobody leads")
        self.assertEqual(json.loads(lines()[0])["value"], None)
        candidates = {
            name: self.spawn("elect", self.key, "--ttl", "2s", "--id", name, "--",
                             *diary.command(120, "end"))
            for name in ("a", "b", "c")}
        for turn in (1, 2, 3):
            started = diary.wait_start(turn)
            token = int(started[-1][3])

            def leader(wanted=token):
                rows = [json.loads(line) for line in lines()]
                return next((row["value"] for row in rows if row["token"] == wanted), None)
            name = eventually(leader, "the leader is observed")
            candidates.pop(name).kill()
        tokens = [int(line[3]) for line in diary.lines("start")]
        self.assertEqual(tokens, sorted(set(tokens)))
        spans = {}
        for line in diary.lines():
            span = spans.setdefault(line[2], [float(line[1]), 0])
            span[1] = float(line[1])
        spans = sorted(spans.values())
        for (_, before), (after, _) in zip(spans, spans[1:]):
            self.assertLess(before, after)
        eventually(lambda: json.loads(lines()[-1])["value"] is None, "nobody leads")
        rows = [json.loads(line) for line in lines()]
        self.assertEqual([row["token"] for row in rows if row["token"]], tokens)
        for row in rows:
            self.assertRegex(row["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertRegex(b"\n".join(plain_lines()), rb"(?m)^\S+Z  %d  [abc]$" % tokens[0])
        for process in (observer, plain):
            process.send_signal(signal.SIGINT)
            self.assertRun(self.end(process), -signal.SIGINT)

    def test_ends_with_its_command(self):
        self.assertRun(self.end(self.spawn("elect", self.key, "--", "sh", "-c", "exit 6")), 6)

    def test_campaigns_again_after_the_loss_of_a_majority(self):
        diary = Diary(self)
        process = self.spawn("elect", self.key, "--ttl", "2s", "--", *diary.command(120, "end"))
        diary.wait_start()
        for number in (2, 3):
            self.cluster[number].pause()
        eventually(lambda: diary.lines("signal"), "the command is told to end")
        for number in (2, 3):
            self.cluster[number].resume()
        started = diary.wait_start(2)
        self.assertLess(int(started[0][3]), int(started[1][3]))
        process.terminate()
        self.assertRun(self.end(process), 40)

    def test_observer_goes_on_at_another_node(self):
        _, lines = self.observe("--json", "--timeout", "1s")
        eventually(lambda: len(lines()) == 1, "nobody leads")
        self.cluster[1].kill()
        with self.cluster[2].client() as client:
            eventually(lambda: isinstance(client.cmd("LOCK", self.key, "x", 20000), (dict, list)),
                       "granted")
        eventually(lambda: json.loads(lines()[-1])["value"] == "x", "the change is observed")


if __name__ == "__main__":
    main()
