#!/usr/bin/env python3
"""State files that are damaged, of somebody else, or cannot be kept: a sentence and no start, never
a start with promises that nobody can keep. And what was there stays as it was."""
import os
import random
import re
import shutil
import subprocess
import time
import unittest

import harness
from harness import Cluster, RespError, as_map, eventually, main, node_states

QUICK = {"max_lease": 2000, "attempt_time": 250}
SECOND_SLOT = 16384
SLOT = 12288


def state_path(node, of=None):
    return os.path.join(node.state_dir, f"node-{of or node.id}.state")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


class Case(unittest.TestCase):
    OPTIONS = QUICK

    def setUp(self):
        self.cluster = Cluster(3, **self.OPTIONS)
        self.addCleanup(self.cluster.abandon)
        with self.cluster[1].client() as client:
            self.token = as_map(client.cmd("LOCK", "k", "v", 1000))[b"token"]

    def refused(self, node, *sentences, file_stays=True, **more):
        """It does not start, says why in one line, does not vote, and leaves the file alone."""
        path = state_path(node)
        before = read(path) if os.path.isfile(path) else None
        node.spawn(**more)
        status = node.wait_exit()
        log = node.log()
        self.assertEqual(status, 1, log)
        lines = [line for line in log.splitlines() if all(s in line for s in sentences)]
        self.assertEqual(len(lines), 1, (sentences, log))
        self.assertNotRegex(log, r"\bready\b")
        self.assertNotIn("this node votes", log)
        if file_stays and before is not None:
            self.assertEqual(read(path), before)

    def others_go_on(self, node):
        other = self.cluster[node.id % 3 + 1]
        with other.client() as client:
            self.assertNotEqual(node_states(client)[node.id][0], b"active")
            grant = eventually(lambda: not isinstance(
                reply := client.cmd("LOCK", "others", "v", 500, "WAIT", 2000), RespError) and reply,
                "the other two grant")
            self.assertEqual(as_map(grant)[b"votes"], 2)

    def welcome_again(self, node, **more):
        """With its means restored it starts, waits, votes, and tokens have risen."""
        node.start(**more)
        self.cluster.wait_active()
        with node.client() as client:
            grant = eventually(lambda: not isinstance(
                reply := client.cmd("LOCK", "k", "w", 500, "WAIT", 2000), RespError) and reply,
                "a grant by way of the node")
            self.assertGreater(as_map(grant)[b"token"], self.token)
        self.cluster.close()


class Damaged(Case):
    def damage(self, *spans):
        """Change a byte in each (start, length) of node 3's file; the file as it was."""
        node = self.cluster[3]
        node.kill()
        path, rng = state_path(node), random.Random(1)
        good = read(path)
        data = bytearray(good)
        for start, length in spans:
            data[start + rng.randrange(length)] ^= 0x40
        write(path, data)
        return node, good

    def test_both_copies(self):
        # The file has a second copy only when it has been written twice.
        self.cluster[3].kill()
        size = len(read(state_path(self.cluster[3])))
        self.cluster[3].start()
        spans = [(0, SLOT)] + ([(SECOND_SLOT, SLOT)] if size > SECOND_SLOT else [])
        node, good = self.damage(*spans)
        self.refused(node, state_path(node), "damaged", "without --new-cluster")
        self.others_go_on(node)
        write(state_path(node), good)
        self.welcome_again(node)

    def test_cut_short_and_garbage(self):
        node, good = self.damage()
        for data in (good[:100], os.urandom(len(good)), b"\0" * len(good), b"x"):
            write(state_path(node), data)
            self.refused(node, state_path(node), "damaged")
        self.others_go_on(node)
        # As the sentence says: away with it, and without --new-cluster the node waits.
        os.unlink(state_path(node))
        node.start(new_cluster=False)
        self.assertIn("quarantine", node.log())
        node.kill()
        self.welcome_again(node)

    def test_one_copy_is_enough(self):
        node = self.cluster[3]
        node.kill()
        node.start()  # each start writes
        self.cluster.wait_active()
        node.kill()
        path = state_path(node)
        good = read(path)
        self.assertGreater(len(good), SECOND_SLOT, "both copies were written")
        data = bytearray(good)
        data[20] ^= 1
        write(path, data)
        self.welcome_again(node)


class Foreign(Case):
    def test_of_another_cluster(self):
        node = self.cluster[3]
        node.kill()
        self.refused(node, 'belongs to cluster "test"', 'for "other"', cluster="other")
        self.others_go_on(node)
        self.welcome_again(node)

    def test_of_another_node(self):
        node, donor = self.cluster[3], self.cluster[2]
        node.kill()
        good = read(state_path(node))
        shutil.copy(state_path(donor), state_path(node))
        self.refused(node, "belongs to node 2", "for node 3")
        self.others_go_on(node)
        write(state_path(node), good)
        self.welcome_again(node)

    def test_written_with_other_constants(self):
        node = self.cluster[3]
        node.kill()
        for option, value in (("max_lease", 3000), ("attempt_time", 300), ("slots", 32),
                              ("drift_ppm", 2000), ("masters", f"3={node.peer_address}")):
            self.refused(node, state_path(node), "--" + option.replace("_", "-"),
                         **{option: value})
        self.welcome_again(node)

    def test_in_use(self):
        node, twin = self.cluster[3], harness.Node(self.cluster, 3)
        twin.log_path += ".twin"
        self.refused(twin, state_path(node), "in use", file_stays=False)
        self.assertTrue(node.running())
        self.cluster.close()

    def test_a_link_or_a_directory_in_its_place(self):
        node = self.cluster[3]
        node.kill()
        path = state_path(node)
        os.rename(path, path + ".kept")
        os.symlink(path + ".kept", path)
        self.refused(node, path, file_stays=False)
        os.unlink(path)
        os.mkdir(path)
        self.refused(node, path, file_stays=False)
        os.rmdir(path)
        os.rename(path + ".kept", path)
        self.welcome_again(node)


class OldCopies(Case):
    """A file from a stop in good order that is put back after the node has run again."""
    OPTIONS = {**QUICK, "max_lease": 6000}  # it votes by itself after that, and a little
    VOTES_AT_ONCE = "it had stopped in good order"

    def old_copy(self, node):
        with self.cluster[node.id % 3 + 1].client() as client:
            client.cmd("RELEASE", "k", "v")
        node.terminate()
        self.assertIn("nothing is held", node.log())
        copy = read(state_path(node))
        node.start()
        self.cluster.wait_active()
        self.assertIn(self.VOTES_AT_ONCE, node.log())
        return copy

    def test_somebody_remembers(self):
        for node in (self.cluster[1], self.cluster[3]):  # who is dialled, and who dials
            copy = self.old_copy(node)
            node.kill()
            write(state_path(node), copy)
            node.start()
            self.cluster.wait_active()
            self.assertIn("is an old copy", node.log())
            self.assertNotIn(self.VOTES_AT_ONCE, node.log())
        self.cluster.close()

    def test_who_remembers_is_silent(self):
        node = self.cluster[3]
        copy = self.old_copy(node)
        node.kill()
        write(state_path(node), copy)
        self.cluster[1].kill()
        self.cluster[2].pause()
        node.start()
        time.sleep(3)
        self.assertNotIn(self.VOTES_AT_ONCE, node.log())
        self.cluster[2].resume()
        self.cluster[1].start()
        self.cluster.wait_active()
        self.assertNotIn(self.VOTES_AT_ONCE, node.log())
        self.cluster.close()


class Disks(Case):
    """Small file systems, each in a mount namespace of the node's own."""

    def setUp(self):
        self.prefix = ["unshare", "--mount"]
        if os.geteuid() != 0:
            self.prefix += ["--user", "--map-root-user"]
        probe = subprocess.run([*self.prefix, "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
                               capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            self.skipTest(f"no mounts in a namespace here: {probe.stderr.strip()}")
        super().setUp()

    def mounted(self, node, options, *then):
        """Words to start @node with, on a file system with @options and a copy of its files."""
        script = " && ".join([
            'kept=$(mktemp -d) && cp -a "$1/." "$kept"',
            f'mount -t tmpfs -o {options} tmpfs "$1"', 'cp -a "$kept/." "$1" && rm -r "$kept"',
            *then, 'shift && exec "$@"'])
        return [*self.prefix, "sh", "-c", script, "sh", node.state_dir]

    def test_read_only(self):
        node = self.cluster[3]
        node.kill()
        self.refused(node, node.state_dir, "Read-only file system", "--state-dir", "--ephemeral",
                     prefix=self.mounted(node, "size=1M", 'mount -o remount,ro "$1"'))
        self.others_go_on(node)
        self.welcome_again(node)

    def test_full_at_the_first_boot(self):
        node = self.cluster[3]
        node.kill()
        os.unlink(state_path(node))
        self.refused(node, state_path(node), "No space left on device", new_cluster=False,
                     prefix=self.mounted(node, "size=16k",
                                         'dd if=/dev/zero of="$1/filling" bs=4k 2>/dev/null; true'))
        self.others_go_on(node)
        self.welcome_again(node, new_cluster=False)

    def test_full_at_a_restart(self):
        """The file is there and has room for what is written at a start, or the start is refused:
        either is fine, granting old tokens is not."""
        node = self.cluster[3]
        node.kill()
        node.spawn(prefix=self.mounted(node, "size=16k",
                                       'dd if=/dev/zero of="$1/filling" bs=4k 2>/dev/null; true'))

        def decided():
            return not node.running() or re.search(r"\bready\b", node.log())
        eventually(decided, "it starts or ends")
        if node.running():
            with node.client() as client:
                grant = eventually(lambda: not isinstance(
                    reply := client.cmd("LOCK", "k", "w", 500, "WAIT", 2000), RespError) and reply,
                    "a grant by way of the node")
                self.assertGreater(as_map(grant)[b"token"], self.token)
            node.kill()
        else:
            self.assertIn("No space left on device", node.log())
            node.process = None
        self.welcome_again(node)


if __name__ == "__main__":
    main()
