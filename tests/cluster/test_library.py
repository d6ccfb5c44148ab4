#!/usr/bin/env python3
"""The client library, as small programs in C use it.

Environment, beside the harness': LIBRARY_PROGRAMS, the folder with lock_shell and many_locks;
EXAMPLES, the folder with the examples.
"""
import os
import signal
import subprocess
import time

from harness import (LOCKER_CLI, Cluster, ClusterCase, as_map, background, eventually, main,
                     sanitized)
from networks import ProxiedCluster

BUILD = os.path.dirname(os.path.dirname(LOCKER_CLI))
PROGRAMS = os.environ.get("LIBRARY_PROGRAMS", os.path.join(BUILD, "tests/cluster"))
EXAMPLES = os.environ.get("EXAMPLES", os.path.join(BUILD, "tools/examples"))
SLOW = 2 if sanitized() else 1


class Shell:
    """A process with one lock."""

    def __init__(self, case, nodes, key, ttl_ms, *more):
        self.process = subprocess.Popen(
            [os.path.join(PROGRAMS, "lock_shell"), nodes, key, str(ttl_ms), *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        case.addCleanup(self.kill)

    def kill(self):
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def ask(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"ended: {self.process.stderr.read()}")
        return line.strip()

    def events(self):
        at_risk, gone, why = self.ask("events").split()
        return int(at_risk), int(gone), why

    def end(self):
        """Exit status, after a clean end with nothing said (a sanitizer would)."""
        self.process.stdin.close()
        status = self.process.wait(30)
        return self.process.stderr.read() or status


class Locks(ClusterCase):
    def shell(self, ttl_ms, *more, key=None):
        return Shell(self, self.cluster.addresses(), key or self.key, ttl_ms, *more)

    def holder(self):
        with self.cluster[2].client(resp3=True) as client:
            return client.cmd("HOLDER", self.key, "QUORUM")

    def test_one_takes_it_and_the_other_is_told(self):
        first, second = self.shell(30000), self.shell(30000)
        self.assertEqual(first.ask("take 0"), "OK")
        self.assertEqual(second.ask("take 0"), "HELD")
        self.assertEqual((first.ask("valid"), second.ask("valid")), ("yes", "no"))
        self.assertEqual(as_map(self.holder())[b"client"], b"shell")
        self.assertEqual(first.ask("release"), "OK")
        self.assertEqual(first.ask("valid"), "no")
        self.assertEqual(second.ask("take 0"), "OK")
        self.assertGreater(int(second.ask("token")), int(first.ask("token")))
        self.assertEqual(first.ask("release"), "LOST")
        self.assertEqual((first.end(), second.end()), (0, 0))

    def test_who_waits_gets_it(self):
        first, second = self.shell(30000), self.shell(30000)
        self.assertEqual(first.ask("take 0"), "OK")
        second.process.stdin.write("take 20000\n")
        second.process.stdin.flush()
        with self.cluster[1].client(resp3=True) as client:
            eventually(lambda: as_map(client.cmd("SUMMARY"))[b"waiters"] == 1, "one waits")
        self.assertEqual(first.ask("release"), "OK")
        self.assertEqual(second.process.stdout.readline().strip(), "OK")
        self.assertEqual(second.end(), 0)

    def test_freed_means_released(self):
        shell = self.shell(30000, "extend")
        self.assertEqual(shell.ask("take 0"), "OK")
        self.assertEqual(shell.end(), 0)
        eventually(lambda: self.holder() is None, "the lock is free", timeout=10)

    def test_a_stopped_client_learns_that_it_lost(self):
        """Every time, also where its answers and its times wait for it side by side."""
        for more in ([], ["extend"]):
            shell = self.shell(500, *more)
            self.assertEqual(shell.ask("take 5000"), "OK")
            shell.process.send_signal(signal.SIGSTOP)
            with self.cluster[1].client() as client:
                grant = self.assertGranted(client.cmd("LOCK", self.key, "next", 3000, "WAIT", 9000))
            shell.process.send_signal(signal.SIGCONT)
            self.assertNotEqual(shell.ask("valid"), "yes")
            eventually(lambda s=shell: s.events()[1] == 1, "it is told", timeout=5)
            self.assertEqual(shell.ask("valid"), "no, told")
            self.assertGreater(grant[b"token"], int(shell.ask("token")))
            time.sleep(1)
            self.assertEqual(shell.ask("valid"), "no, told")
            self.assertEqual(shell.ask("release"), "LOST")
            with self.cluster[1].client() as client:
                client.cmd("RELEASE", self.key, "next")
            self.assertEqual(shell.ask("take 5000"), "OK")
            self.assertEqual(shell.ask("valid"), "yes")
            self.assertEqual(shell.end(), 0)

    def test_it_is_told_that_somebody_took_the_lock(self):
        shell = self.shell(1500, "extend")
        self.assertEqual(shell.ask("take 0"), "OK")
        value = as_map(self.holder())[b"value"]
        with self.cluster[1].client() as client:
            self.assertGranted(client.cmd("RELEASE", self.key, value))
        eventually(lambda: shell.events()[1] == 1, "it is told", timeout=5)
        self.assertEqual(shell.events(), (0, 1, "NOTFOUND"))
        self.assertEqual(shell.ask("valid"), "no, told")

    def test_many_locks_by_one_thread(self):
        """For some leases; then all are free at once."""
        ttl_ms = 2000 * SLOW
        for more in ([], ["own-loop"]):
            done = subprocess.run(
                [os.path.join(PROGRAMS, "many_locks"), self.cluster.addresses(),
                 self.key + "".join(more), "1000", str(ttl_ms), str(4 * ttl_ms), *more],
                capture_output=True, text=True, timeout=120, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            *numbers, cpu_ms = map(int, done.stdout.split())
            self.assertEqual(numbers, [1000, 0, 1000, 1 if more else 2])
            self.assertLess(cpu_ms, 4 * ttl_ms / 5)
            with self.cluster[1].client(resp3=True) as client:
                eventually(lambda c=client: as_map(c.cmd("SUMMARY"))[b"leases"] == 0,
                           "all are free", timeout=1 + ttl_ms / 2000)

    def test_examples(self):
        def mutex(ttl, work):
            return subprocess.Popen(
                [os.path.join(EXAMPLES, "mutex"), self.cluster.addresses(), self.key, str(ttl),
                 str(work)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        both = [mutex(1000, 1500), mutex(1000, 1500)]
        for process in both:
            out, err = process.communicate(timeout=60)
            self.assertEqual((process.returncode, err), (0, ""), out)
            self.assertRegex(out, r"\Ataken: token \d+\nreleased: OK\n\Z")


class Candidate:
    """The example elect."""

    def __init__(self, case, nodes, key, name, ttl_ms=1000 * SLOW):
        self.process = subprocess.Popen(
            [os.path.join(EXAMPLES, "elect"), nodes, key, name, str(ttl_ms)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self.reader = background(self.read)
        case.addCleanup(self.kill)

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def says(self, start, after=0, timeout=30):
        """Wait until it said it; how many lines it had said then."""
        def said():
            return next((i + 1 for i, line in enumerate(self.lines)
                         if i >= after and line.startswith(start)), 0)
        return eventually(said, f"'{start}' among {self.lines}", timeout)

    def term(self):
        return max(int(line.split()[-1]) for line in self.lines if line.startswith("elected"))


class Elections(ClusterCase):
    def candidate(self, name):
        return Candidate(self, self.cluster.addresses(), self.key, name)

    def test_one_after_another(self):
        first = self.candidate("ann")
        first.says("elected")
        first.says("leader: ann")
        second = self.candidate("bob")
        second.says("leader: ann")
        self.assertEqual([s for s in second.lines if s.startswith("elected")], [])
        first.process.stdin.write("resign\n")
        first.process.stdin.flush()
        second.says("elected", timeout=5)
        first.says("leader: bob")
        self.assertGreater(second.term(), first.term())
        second.kill()
        third = self.candidate("eve")
        third.says("elected")
        self.assertGreater(third.term(), second.term())
        third.process.stdin.close()
        self.assertEqual(third.process.wait(10), 0)
        first.says("leader: nobody", timeout=5)

    def test_a_leader_that_was_stopped_is_deposed_and_stands_again(self):
        first = self.candidate("ann")
        first.says("elected")
        second = self.candidate("bob")
        second.says("leader: ann")
        first.process.send_signal(signal.SIGSTOP)
        second.says("elected")
        seen = len(first.lines)
        first.process.send_signal(signal.SIGCONT)
        first.says("deposed", seen)
        first.says("leader: bob", seen)
        second.kill()
        first.says("elected", seen)
        self.assertGreater(first.term(), second.term())


class Failures(ClusterCase):
    """Every test has a cluster of its own, to break."""

    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def assert_kept(self, cluster, break_node):
        """The lock of a client whose node breaks goes on by another one."""
        shell = Shell(self, cluster.addresses(), self.key, 3000 * SLOW, "extend")
        self.assertEqual(shell.ask("take 0"), "OK")
        token = shell.ask("token")
        used = shell.ask("node")
        break_node(next(n for n in cluster.nodes if n.address == used))
        end = time.monotonic() + 2 * 3 * SLOW
        while time.monotonic() < end:
            self.assertEqual(shell.ask("valid"), "yes")
            time.sleep(0.02)
        self.assertEqual(shell.ask("token"), token)
        self.assertNotEqual(shell.ask("node"), used)
        self.assertEqual(shell.events()[1], 0)
        self.assertEqual(shell.ask("release"), "OK")
        self.assertEqual(shell.end(), 0)

    def test_the_node_in_use_is_killed(self):
        with Cluster(3) as cluster:
            self.assert_kept(cluster, lambda node: node.kill())

    def test_the_node_in_use_stands_still(self):
        with Cluster(3) as cluster:
            self.assert_kept(cluster, lambda node: node.pause())

    def test_the_node_in_use_is_cut_off_from_the_others(self):
        with ProxiedCluster(3) as cluster:
            cluster.start()

            def cut(node):
                cluster.cut([p for p in cluster.routes if node.id in p], "drop")
            self.assert_kept(cluster, cut)
            cluster.heal()

    def test_without_a_majority_it_is_at_risk_then_gone(self):
        with Cluster(3) as cluster:
            shell = Shell(self, cluster.addresses(), self.key, 3000, "extend")
            self.assertEqual(shell.ask("take 0"), "OK")
            cluster[2].kill()
            cluster[3].kill()
            eventually(lambda: shell.events()[0] == 1, "it is at risk", timeout=10)
            self.assertEqual(shell.ask("valid"), "yes")
            eventually(lambda: shell.events()[1] == 1, "it is gone", timeout=10)
            self.assertEqual(shell.ask("valid"), "no, told")
            self.assertEqual(shell.events()[:2], (1, 1))
            self.assertIn(shell.events()[2], ("NOQUORUM", "UNKNOWN"))
            self.assertEqual(shell.ask("take 0"), "NOQUORUM")


if __name__ == "__main__":
    main()
