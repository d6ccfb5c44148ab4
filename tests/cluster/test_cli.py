#!/usr/bin/env python3
"""The command line client: what it prints and how it ends."""
import json
import os
import socket
import subprocess
import unittest

from harness import LOCKER_CLI, Cluster, ClusterCase, eventually, free_address, main

DONE, REFUSED, USAGE, UNSURE, UNREACHABLE = range(5)


def locker(*words, nodes=None, env=None):
    """(exit status, stdout, stderr)"""
    where = ["--node", nodes] if nodes else []
    done = subprocess.run([LOCKER_CLI, *where, *map(str, words)], capture_output=True, timeout=60,
                          env={**os.environ, **(env or {})}, check=False)
    return done.returncode, done.stdout, done.stderr


class Commands(ClusterCase):
    def locker(self, *words):
        return locker(*words, nodes=self.cluster.addresses())

    def json(self, *words):
        status, out, _ = self.locker("--json", *words)
        self.assertEqual(out.count(b"\n"), 1)
        return status, json.loads(out)

    def test_a_session(self):
        key = self.key
        status, grant = self.json("lock", key, "me", "20s")
        self.assertEqual((status, grant["outcome"]), (DONE, "ok"))
        token = grant["reply"]["token"]
        self.assertGreater(grant["reply"]["valid-ms"], 10000)
        self.assertEqual(self.json("lock", key, "you", "20s"),
                         (REFUSED, {"outcome": "held", "reply": None}))
        self.assertEqual(self.json("lock", key, "you", "20s", "--wait", "50ms")[0], REFUSED)
        self.assertEqual(self.json("lock", key, "me", "20s", "--idempotent")[1]["reply"]["token"],
                         token)
        self.assertEqual(self.json("check", key, token)[0], DONE)
        self.assertEqual(self.json("check", key, token - 1),
                         (REFUSED, {"outcome": "refused", "reply": 0}))
        self.assertEqual(self.json("extend", key, "me", "30s", "--token", token)[0], DONE)
        self.assertEqual(self.json("update", key, "me", "me2", "--token", token)[0], DONE)
        self.assertEqual(self.json("read", key, "--quorum")[1]["reply"], "me2")
        self.assertEqual(self.json("holder", key, "--quorum")[1]["reply"]["token"], token)
        self.assertEqual(self.json("wait-for", key, "5s")[1]["reply"], "me2")
        self.assertEqual(self.json("wait-release", key, "50ms"),
                         (REFUSED, {"outcome": "timeout", "reply": None}))
        self.assertEqual(self.json("release", key, "me")[1]["outcome"], "notowner")
        self.assertEqual(self.json("release", key, "me2", "--token", token)[0], DONE)
        status, reply = self.json("release", key, "me2")
        self.assertEqual((status, reply["outcome"]), (REFUSED, "notfound"))
        self.assertEqual(self.json("read", key, "--quorum"),
                         (REFUSED, {"outcome": "none", "reply": None}))
        self.assertEqual(self.json("wait-release", key, "1s")[1]["reply"], "NOTLOCKED")

    def test_what_people_read(self):
        status, out, _ = self.locker("lock", self.key, "me", "20s")
        self.assertEqual(status, DONE)
        self.assertRegex(out, rb"(?m)^token +\d+$")
        self.assertRegex(out, rb"(?m)^valid-ms +\d+$")
        status, out, err = self.locker("lock", self.key, "you", "20s")
        self.assertEqual((status, out), (REFUSED, b""))
        self.assertIn(b"held by another", err)
        eventually(lambda: self.locker("read", self.key)[1] == b"me\n", "the copy")
        for command in ("lag", "summary", "nodes", "info"):
            status, out, err = self.locker(command)
            self.assertEqual((status, err), (DONE, b""), command)
            self.assertGreater(len(out), 10)
            self.assertEqual(self.json(command)[1]["outcome"], "ok")

    def test_json_of_bytes_that_are_no_text(self):
        with self.cluster[1].client() as client:
            value = b'\xff\xc3\xa9"\\\x00\n\xed\xa0\x80'
            self.assertGranted(client.cmd("LOCK", self.key, value, 20000))
        self.assertEqual(self.json("read", self.key, "--quorum")[1]["reply"],
                         '\u00ff\u00e9"\\\x00\n\u00ed\u00a0\u0080')

    def test_a_limit_of_the_cluster_is_no_wrong_usage(self):
        status, reply = self.json("lock", self.key, "me", "2h")
        self.assertEqual((status, reply["outcome"]), (UNSURE, "limit"))

    def test_words_that_begin_with_dashes(self):
        self.assertEqual(self.json("lock", "--", self.key, "--json", "20s")[0], DONE)
        self.assertEqual(self.json("read", "--quorum", "--", self.key)[1]["reply"], "--json")

    def test_first_reachable_node_serves(self):
        nodes = free_address() + "," + self.cluster[3].address
        self.assertEqual(locker("lag", nodes=nodes)[0], DONE)
        self.assertEqual(locker("lag", env={"LOCKER_NODES": nodes})[0], DONE)


class Failures(unittest.TestCase):
    def test_no_quorum(self):
        with Cluster(3, attempt_time=500) as cluster:
            cluster[2].kill()
            cluster[3].kill()
            status, out, _ = locker("--json", "lock", "k", "v", "5s", nodes=cluster[1].address)
            self.assertEqual((status, json.loads(out)["outcome"]), (UNSURE, "noquorum"))

    def test_nobody_there(self):
        status, out, err = locker("lag", nodes=f"{free_address()},{free_address()}")
        self.assertEqual((status, out), (UNREACHABLE, b""))
        self.assertIn(b"cannot connect", err)

    def test_silence_ends_by_timeout(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            where = "127.0.0.1:%d" % silent.getsockname()[1]
            self.assertEqual(locker("--timeout", "200ms", "lag", nodes=where)[0], UNREACHABLE)

    def test_wrong_usage(self):
        for words in ([], ["nosuch"], ["lock", "k"], ["lock", "k", "v", "soon"],
                      ["lock", "k", "v", "1s", "--wait"], ["lock", "k", "v", "1s", "--quorum"],
                      ["lock", "k", "v", "1s", "more"], ["check", "k", "x"], ["--timeout"],
                      ["--timeout", "0", "lag"], ["--node", "nonsense", "lag"],
                      ["lock", "k", "v", "99999999999999999999"], ["help", "nosuch"],
                      ["lock", "", "v", "1s"], ["lock", "k" * 513, "v", "1s"],
                      ["lock", "k", "v" * 4097, "1s"], ["lock", "k", "v", "0"],
                      ["extend", "k", "v", "25h"], ["--nosuch", "lag"], ["release", "k"],
                      ["wait-for", "k"], ["lag", "more"]):
            status, _, err = locker(*words)
            self.assertEqual(status, USAGE, words)
            self.assertNotEqual(err, b"", words)

    def test_help(self):
        self.assertIn(b"COMMAND", locker("--help")[1])
        self.assertIn(b"TTL", locker("help", "lock")[1])
        self.assertEqual(locker("lock", "--help")[1], locker("help", "lock")[1])
        self.assertRegex(locker("--version")[1], rb"^locker \d+\.\d+")


if __name__ == "__main__":
    main()
