#!/usr/bin/env python3
"""The command line client: what it prints and how it ends."""
import json
import os
import pty
import select
import socket
import subprocess
import threading
import time
import unittest

from harness import (LOCKER_CLI, Client, Closed, Cluster, ClusterCase, RespError, encode,
                     eventually, free_address, main)

DONE, REFUSED, USAGE, UNSURE, UNREACHABLE = range(5)


def locker(*words, nodes=None, env=None):
    """(exit status, stdout, stderr)"""
    where = ["--node", nodes] if nodes else []
    done = subprocess.run([LOCKER_CLI, *where, *map(str, words)], capture_output=True, timeout=60,
                          env={**os.environ, **(env or {})}, check=False)
    return done.returncode, done.stdout, done.stderr


def on_terminal(answer, *words):
    """(exit status, what was on the screen)"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([LOCKER_CLI, *words], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, answer)
    screen = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            more = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not more:
            break
        screen += more
    os.close(ours)
    return process.wait(10), screen


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
        status, out, _ = self.locker("nodes")
        self.assertEqual(status, DONE)
        self.assertRegex(out, rb"(?m)^epoch \d+, quorum 2 of 3 masters, 64 slots$")
        for number in (1, 2, 3):
            self.assertRegex(out, rb"(?m)^ *%d +\S+:\d+ +master +active " % number)
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


class Impostor:
    """Says what it is told to say for NODES, and takes its time for SETNODES."""

    def __init__(self, reply="OK", silent=False):
        self.reply = reply
        self.silent = silent  # from SETNODES on
        self.wishes = []
        self.change = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        requests = Client.__new__(Client)
        requests.sock, requests.data = sock, bytearray()
        try:
            while True:
                words = requests.read()
                if words[0] == b"SETNODES":
                    self.wishes.append(words)
                    for step in (1, 2, 3):
                        self.change = {"step": step, "steps": 3, "text": "a \x1b[2J of step"}
                        time.sleep(0.3)
                    if self.silent:
                        continue
                    self.change = None
                    sock.sendall(self.encode(self.reply))
                elif not self.silent or self.change is None:
                    sock.sendall(self.encode(self.nodes() if words[0] == b"NODES" else {}))
        except (Closed, OSError):
            pass

    def nodes(self):
        def node(number, role, state, lag=-1):
            return {"id": number, "role": role, "state": state, "epoch": 7, "slots-voting": 64,
                    "slots-in-sync": 60, "lag-ms": lag, "address": f"10.0.0.{number}:7501",
                    "remaining-ms": 0, "links": 1, "heard-ms": 3, "since-ms": 93784000}
        return {"epoch": 7, "slots": 64, "quorum": 2, "masters": [1, 2, 3], "replicas": [4],
                "change": self.change, "nodes": [
                    node(1, "master", "active"), node(2, "master", "active"),
                    node(3, "master", "down"), node(4, "replica", "act\x1bive", 5),
                    node(5, "nonmember", "nonmember")]}

    def encode(self, value):
        if value is None:
            return b"_\r\n"
        if isinstance(value, RespError):
            return b"-%s\r\n" % value.text.encode()
        if isinstance(value, int):
            return b":%d\r\n" % value
        if isinstance(value, list):
            return b"*%d\r\n" % len(value) + b"".join(map(self.encode, value))
        if isinstance(value, dict):
            return b"%%%d\r\n" % len(value) + b"".join(
                self.encode(k) + self.encode(v) for k, v in value.items())
        return encode(value)[4:]  # the bulk alone


class Nodes(unittest.TestCase):
    """`locker nodes` before a server whose words are known."""

    def set(self, server, *words):
        return locker("nodes", "set", *words, nodes=server.address)

    def test_the_table(self):
        with Impostor() as server:
            status, out, _ = locker("nodes", nodes=server.address)
        self.assertEqual(status, DONE)
        self.assertIn(b"epoch 7, quorum 2 of 3 masters, 64 slots\n", out)
        self.assertRegex(out, rb"(?m)^ *1 +10\.0\.0\.1:7501 +master +active +7 +60/64 +- +1 d 2 h$")
        self.assertRegex(out, rb"(?m)^ *4 +\S+ +replica +act\?ive +7 +60/64 +5 ms +1 d 2 h$")

    def test_the_steps_and_how_far_they_are(self):
        with Impostor() as server:
            status, out, err = self.set(server, "--masters", "1,2,4,5", "--yes")
            self.assertEqual((status, err), (DONE, b""))
            self.assertEqual(server.wishes, [[b"SETNODES", b"MASTERS", b"1", b"2", b"4", b"5"]])
        lines = out.decode().splitlines()
        self.assertEqual(lines[:6], [
            "now     quorum 2 of 3; masters 1 2 3; replica 4",
            "target  quorum 3 of 4; masters 1 2 4 5",
            "   1  remove master 3                  quorum 2 of 2",
            "   2  promote replica 4 to master      quorum 2 of 3",
            "   3  add master 5                     quorum 3 of 4",
            "warning: 4 masters tolerate no more failures than 3"])
        for step in (1, 2, 3):
            self.assertIn(f"step {step} of 3: a ?[2J of step", lines)
        self.assertIn("epoch 7, quorum 2 of 3 masters, 64 slots", lines)

    def test_a_bar_on_a_terminal(self):
        with Impostor() as server:
            words = ("--node", server.address, "nodes", "set", "--masters", "1,2", "--replicas",
                     "none")
            status, screen = on_terminal(b"n\n", *words)
            self.assertEqual((status, server.wishes), (REFUSED, []))
            self.assertIn(b"go on? [y/N]", screen)
            status, screen = on_terminal(b"y\n", *words)
            self.assertEqual(status, DONE)
            self.assertEqual(server.wishes, [[b"SETNODES", b"MASTERS", b"1", b"2", b"REPLICAS"]])
        self.assertIn(b"\r[------", screen)
        self.assertRegex(screen, rb"\[#+-+\] step 3 of 3: a \?\[2J of step")

    def test_nobody_to_ask(self):
        with Impostor() as server:
            status, _, err = self.set(server, "--masters", "1")
            self.assertEqual((status, server.wishes), (USAGE, []))
            self.assertIn(b"--yes", err)
            # Nothing to change is nothing to ask about.
            self.assertEqual(self.set(server, "--masters", "1,2,3")[0], DONE)

    def test_the_end_of_an_attempt_that_failed(self):
        for text, wanted in (("NOTREADY node 5 is not in sync", UNSURE), ("BUSY x", UNSURE),
                             ("NOQUORUM x", UNSURE), ("ERR node 9 is not known here", USAGE)):
            with Impostor(RespError(text)) as server:
                status, _, err = self.set(server, "--masters", "1,2,9", "--yes")
                self.assertEqual(status, wanted, text)
                self.assertIn(text.encode(), err)
                self.assertEqual(b"same command again" in err, wanted == UNSURE)
                status, out, _ = locker("--json", "nodes", "set", "--masters", "1", "--yes",
                                        nodes=server.address)
                self.assertEqual(status, wanted)
                self.assertEqual(json.loads(out)["error"], text)

    def test_a_node_that_falls_silent(self):
        with Impostor(silent=True) as server:
            status, _, err = self.set(server, "--masters", "1,2", "--yes", "--timeout", "300ms")
        self.assertEqual(status, UNSURE)
        self.assertIn(b"unknown how far", err)
        self.assertIn(b"same command again", err)


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
                      ["wait-for", "k"], ["lag", "more"], ["nodes", "get"], ["nodes", "set"],
                      ["nodes", "set", "--masters"], ["nodes", "set", "--masters", "none"],
                      ["nodes", "set", "--masters", "1,1"], ["nodes", "set", "--masters", "1,x"],
                      ["nodes", "set", "--masters", "1,"], ["nodes", "set", "--masters", "256"],
                      ["nodes", "set", "--masters", "1", "--replicas", "1"],
                      ["nodes", "set", "--masters", "1", "2"],
                      ["nodes", "set", "--masters", ",".join(map(str, range(1, 17)))]):
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
