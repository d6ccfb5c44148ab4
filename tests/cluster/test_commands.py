#!/usr/bin/env python3
"""Every command of the contract over real nodes, in both dialects."""
import re
import subprocess
import time

from harness import Client, ClusterCase, RespError, as_map, background, encode, eventually, main


class Locks(ClusterCase):
    def test_lock_refuse_release_over_every_node(self):
        for taker in (1, 2, 3):
            for other in (1, 2, 3):
                key = f"{self.key}-{taker}-{other}"
                a, b = self.connect(taker), self.connect(other)
                grant = self.assertGranted(a.cmd("LOCK", key, "me", 20000))
                self.assertEqual(grant[b"quorum"], 2)
                self.assertLessEqual(grant[b"valid-ms"], 20000)
                self.assertGreater(grant[b"valid-ms"], 10000)
                self.assertIsNone(b.cmd("LOCK", key, "you", 20000))
                self.assertError(b.cmd("RELEASE", key, "you"), "NOTOWNER")
                release = as_map(b.cmd("RELEASE", key, "me"))
                self.assertGreaterEqual(release[b"commits"], 2)
                self.assertNotIn(b"valid-ms", release)
                self.assertError(a.cmd("RELEASE", key, "me"), "NOTFOUND")
                again = self.assertGranted(b.cmd("LOCK", key, "you", 20000))
                self.assertGreater(again[b"token"], grant[b"token"])

    def test_resp2_is_a_flat_array_and_resp3_a_map(self):
        a, b = self.connect(), self.connect(resp3=True)
        flat = a.cmd("LOCK", self.key, "v", 5000)
        self.assertIsInstance(flat, list)
        self.assertEqual(flat[::2], [b"token", b"valid-ms", b"quorum", b"votes", b"commits"])
        mapped = b.cmd("EXTEND", self.key, "v", 5000)
        self.assertIsInstance(mapped, dict)
        self.assertEqual(mapped[b"token"], as_map(flat)[b"token"])
        self.assertIsNone(b.cmd("LOCK", self.key, "w", 5000))

    def test_null_is_written_in_each_dialect(self):
        a = self.connect()
        a.send("READ", self.key)
        self.assertEqual(a._line(), b"$-1")
        a.cmd("HELLO", 3)
        a.send("READ", self.key)
        self.assertEqual(a._line(), b"_")

    def test_extend_and_update_keep_the_token(self):
        a, b = self.connect(1), self.connect(2)
        grant = self.assertGranted(a.cmd("LOCK", self.key, "v1", 10000))
        extended = self.assertGranted(b.cmd("EXTEND", self.key, "v1", 30000))
        self.assertEqual(extended[b"token"], grant[b"token"])
        self.assertGreater(extended[b"valid-ms"], 20000)
        updated = self.assertGranted(b.cmd("UPDATE", self.key, "v1", "v2"))
        self.assertEqual(updated[b"token"], grant[b"token"])
        self.assertLessEqual(updated[b"valid-ms"], 30000)
        self.assertError(a.cmd("UPDATE", self.key, "v1", "v3"), "NOTOWNER")
        self.assertError(a.cmd("EXTEND", self.key, "v1", 1000), "NOTOWNER")
        self.assertEqual(a.cmd("READ", self.key, "QUORUM"), b"v2")
        self.assertError(a.cmd("UPDATE", self.key + "-free", "a", "b"), "NOTFOUND")
        self.assertError(a.cmd("EXTEND", self.key + "-free", "a", 1000), "NOTFOUND")

    def test_token_names_one_grant(self):
        a = self.connect()
        first = self.assertGranted(a.cmd("LOCK", self.key, "v", 20000))[b"token"]
        self.assertError(a.cmd("EXTEND", self.key, "v", 20000, "TOKEN", first + 1), "NOTOWNER")
        self.assertGranted(a.cmd("EXTEND", self.key, "v", 20000, "TOKEN", first))
        as_map(a.cmd("RELEASE", self.key, "v", "TOKEN", first))
        second = self.assertGranted(a.cmd("LOCK", self.key, "v", 20000))[b"token"]
        self.assertError(a.cmd("RELEASE", self.key, "v", "TOKEN", first), "NOTOWNER")
        self.assertEqual(a.cmd("CHECK", self.key, first), 0)
        self.assertEqual(a.cmd("CHECK", self.key, second), 1)

    def test_update_repeated_with_token_is_the_same_success(self):
        a, b = self.connect(1), self.connect(3)
        token = self.assertGranted(a.cmd("LOCK", self.key, "v1", 20000))[b"token"]
        self.assertGranted(a.cmd("UPDATE", self.key, "v1", "v2", "TOKEN", token))
        again = self.assertGranted(b.cmd("UPDATE", self.key, "v1", "v2", "TOKEN", token))
        self.assertEqual(again[b"token"], token)

    def test_idempotent_lock_finds_its_own_grant(self):
        a, b = self.connect(1), self.connect(2)
        token = self.assertGranted(a.cmd("LOCK", self.key, "mine", 20000))[b"token"]
        again = self.assertGranted(b.cmd("LOCK", self.key, "mine", 20000, "IDEMPOTENT"))
        self.assertEqual(again[b"token"], token)
        self.assertIsNone(b.cmd("LOCK", self.key, "mine", 20000))
        self.assertIsNone(b.cmd("LOCK", self.key, "other", 20000, "IDEMPOTENT"))

    def test_binary_keys_and_values(self):
        a, b = self.connect(1), self.connect(2)
        key, value = b"\0\r\n\xff" + self.key.encode(), bytes(range(256)) * 16
        self.assertGranted(a.cmd("LOCK", key, value, 20000))
        self.assertEqual(b.cmd("READ", key, "QUORUM"), value)
        self.assertGranted(a.cmd("LOCK", b"k" * 512, b"", 20000))
        self.assertEqual(b.cmd("READ", b"k" * 512, "QUORUM"), b"")

    def test_local_read_on_every_node(self):
        self.assertGranted(self.connect(1).cmd("LOCK", self.key, "seen", 20000))
        for number in (1, 2, 3):
            client = self.connect(number)
            eventually(lambda c=client: c.cmd("READ", self.key) == b"seen", f"seen on {number}")
            self.assertEqual(client.cmd("GET", self.key), b"seen")

    def test_holder_tells_who_and_how_long(self):
        a, b = self.connect(2), self.connect(3, resp3=True)
        self.assertEqual(a.cmd("CLIENT", "SETNAME", "somebody"), b"OK")
        token = self.assertGranted(a.cmd("LOCK", self.key, "v", 20000))[b"token"]
        holder = b.cmd("HOLDER", self.key, "QUORUM")
        self.assertEqual(set(holder), {b"value", b"token", b"remaining-ms", b"held-ms", b"node",
                                       b"client"})
        self.assertEqual(holder[b"value"], b"v")
        self.assertEqual(holder[b"token"], token)
        self.assertEqual(holder[b"node"], 2)
        self.assertEqual(holder[b"client"], b"somebody")
        self.assertLessEqual(holder[b"remaining-ms"], 20001)
        self.assertGreater(holder[b"remaining-ms"], 0)
        local = eventually(lambda: b.cmd("HOLDER", self.key), "local holder")
        self.assertEqual(local[b"token"], token)
        self.assertIsNone(b.cmd("HOLDER", self.key + "-free", "QUORUM"))

    def test_lag_summary_nodes(self):
        a = self.connect(1, resp3=True)
        lag = a.cmd("LAG")
        self.assertIsInstance(lag[b"ms"], float)
        self.assertEqual(lag[b"quorum"], 2)
        self.assertGranted(a.cmd("LOCK", self.key, "v", 20000))
        summary = as_map(a.cmd("SUMMARY"))
        self.assertTrue({b"leases", b"promises", b"waiters"} <= set(summary), summary)
        nodes = as_map(a.cmd("NODES"))
        self.assertTrue({b"epoch", b"quorum", b"masters", b"replicas"} <= set(nodes), nodes)
        self.assertEqual(nodes[b"quorum"], 2)
        self.assertIsInstance(as_map(self.connect(2).cmd("LAG"))[b"ms"], bytes)

    def test_bounds_are_refused_by_name(self):
        a = self.connect()
        self.assertError(a.cmd("LOCK", "k" * 513, "v", 1000), "LIMIT")
        self.assertError(a.cmd("LOCK", self.key, "v" * 4097, 1000), "LIMIT")
        self.assertError(a.cmd("LOCK", self.key, "v", 24 * 3600 * 1000 + 1), "LIMIT")
        for ttl in (0, -1, "x", "1.5", "9" * 30, ""):
            self.assertIsInstance(a.cmd("LOCK", self.key, "v", ttl), RespError, ttl)
        self.assertIsInstance(a.cmd("LOCK", "", "v", 1000), RespError)
        for wrong in (["LOCK", self.key], ["LOCK", self.key, "v", 1, "SOON"], ["READ"],
                      ["CHECK", self.key, "x"], ["EXTEND", self.key, "v", 1, "TOKEN"],
                      ["READ", self.key, "MAYBE"]):
            self.assertError(a.cmd(*wrong), "ERR")
        self.assertEqual(a.cmd("LOCK", self.key).text.split("'")[0],
                         "ERR wrong number of arguments for ")
        self.assertEqual(a.cmd("NOSUCH").text[:20], "ERR unknown command ")
        self.assertEqual(a.cmd("LOCK", self.key, "v", 1, "SOON").text, "ERR syntax error")
        self.assertEqual(a.cmd("PING"), b"PONG")


class Waiting(ClusterCase):
    def test_waitfor_across_nodes(self):
        for number in (1, 2, 3):
            key = f"{self.key}-{number}"
            join = background(self.connect(number).cmd, "WAITFOR", key, 15000)
            time.sleep(0.05)
            self.assertGranted(self.connect(1).cmd("LOCK", key, "here", 20000))
            self.assertEqual(join(), b"here")
        self.assertEqual(self.connect(1).cmd("WAITFOR", f"{self.key}-1", 1000), b"here")
        self.assertIsNone(self.connect(1).cmd("WAITFOR", self.key + "-never", 50))

    def test_waitrelease_across_nodes(self):
        a = self.connect(1)
        for number in (1, 2, 3):
            key = f"{self.key}-{number}"
            b = self.connect(number)
            self.assertEqual(b.cmd("WAITRELEASE", key, 1000), b"NOTLOCKED")
            self.assertGranted(a.cmd("LOCK", key, "v", 20000))
            eventually(lambda c=b, k=key: c.cmd("READ", k) == b"v", "copy")
            self.assertIsNone(b.cmd("WAITRELEASE", key, 50))
            join = background(b.cmd, "WAITRELEASE", key, 15000)
            time.sleep(0.05)
            as_map(a.cmd("RELEASE", key, "v"))
            self.assertEqual(join(), b"RELEASED")

    def test_waitrelease_sees_the_end_of_the_lease(self):
        a = self.connect(2)
        self.assertGranted(a.cmd("LOCK", self.key, "v", 400))
        eventually(lambda: a.cmd("READ", self.key), "copy", pause=0)
        self.assertEqual(a.cmd("WAITRELEASE", self.key, 15000), b"RELEASED")

    def test_lock_wait_is_first_come_first_served(self):
        holder = self.connect(1)
        self.assertGranted(holder.cmd("LOCK", self.key, "holder", 30000))
        waiters = []
        for number in range(6):
            waiter = self.connect(1)
            waiter.send("LOCK", self.key, f"w{number}", 30000, "WAIT", 30000)
            waiters.append(waiter)
            time.sleep(0.05)
        as_map(holder.cmd("RELEASE", self.key, "holder"))
        last = 0
        for number, waiter in enumerate(waiters):
            token = self.assertGranted(waiter.read())[b"token"]
            self.assertGreater(token, last)
            last = token
            self.assertEqual(holder.cmd("READ", self.key, "QUORUM"), f"w{number}".encode())
            as_map(waiter.cmd("RELEASE", self.key, f"w{number}"))

    def test_lock_wait_across_nodes_and_when_time_runs_out(self):
        a, b = self.connect(1), self.connect(2)
        self.assertGranted(a.cmd("LOCK", self.key, "a", 30000))
        self.assertIsNone(b.cmd("LOCK", self.key, "b", 30000, "WAIT", 100))
        b.send("LOCK", self.key, "b", 30000, "WAIT", 20000)
        time.sleep(0.1)
        as_map(a.cmd("RELEASE", self.key, "a"))
        self.assertGranted(b.read())

    def test_waiter_gets_a_lease_that_ends(self):
        a, b = self.connect(1), self.connect(3)
        self.assertGranted(a.cmd("LOCK", self.key, "a", 500))
        grant = self.assertGranted(b.cmd("LOCK", self.key, "b", 10000, "WAIT", 20000))
        # valid-ms counts from the request, so it includes the wait.
        self.assertGreater(grant[b"valid-ms"], 9000)

    def test_a_waiter_that_leaves_is_passed_over(self):
        a, c = self.connect(1), self.connect(1)
        self.assertGranted(a.cmd("LOCK", self.key, "a", 30000))
        gone = Client(self.cluster[1].address)
        gone.send("LOCK", self.key, "gone", 30000, "WAIT", 30000)
        time.sleep(0.1)
        c.send("LOCK", self.key, "c", 30000, "WAIT", 30000)
        time.sleep(0.1)
        gone.close()
        time.sleep(0.1)
        as_map(a.cmd("RELEASE", self.key, "a"))
        self.assertGranted(c.read())
        self.assertEqual(a.cmd("READ", self.key, "QUORUM"), b"c")

    def test_a_blocked_command_holds_up_its_own_connection_only(self):
        a, b = self.connect(1), self.connect(1)
        a.send("WAITFOR", self.key, 15000)
        a.send("PING")
        self.assertEqual(b.cmd("PING"), b"PONG")
        self.assertGranted(b.cmd("LOCK", self.key, "v", 20000))
        self.assertEqual([a.read(), a.read()], [b"v", b"PONG"])


class Redis(ClusterCase):
    def redis_cli(self, *args, number=1, stdin=None, dialect="-2"):
        host, port = self.cluster[number].address.split(":")
        return subprocess.run(["redis-cli", dialect, "-h", host, "-p", port, *map(str, args)],
                              input=stdin, capture_output=True, text=True, timeout=60,
                              check=False).stdout

    def test_set_forms(self):
        a, b = self.connect(1), self.connect(2)
        self.assertEqual(a.cmd("SET", self.key, "v", "NX", "PX", 20000), b"OK")
        self.assertIsNone(b.cmd("set", self.key, "w", "px", 20000, "nx"))
        self.assertEqual(b.cmd("SET", self.key + "2", "v", "EX", 20, "NX"), b"OK")
        self.assertEqual(b.cmd("SET", self.key, "v2", "IFEQ", "v"), b"OK")
        self.assertIsNone(b.cmd("SET", self.key, "v3", "IFEQ", "v"))
        self.assertEqual(a.cmd("SET", self.key, "v3", "IFEQ", "v2", "PX", 30000), b"OK")
        for wrong in (["SET", self.key, "v"], ["SET", self.key, "v", "NX"],
                      ["SET", self.key, "v", "XX", "PX", 1000], ["SET", self.key, "v", "PX", 10],
                      ["DEL", self.key], ["EXPIRE", self.key, 10], ["PEXPIRE", self.key, 10]):
            reply = a.cmd(*wrong)
            self.assertIsInstance(reply, RespError, wrong)
            self.assertGreater(len(reply.text.split()), 5, reply.text)
        self.assertEqual(a.cmd("DELIFEQ", self.key, "v2"), 0)
        self.assertEqual(a.cmd("DELIFEQ", self.key, "v3"), 1)
        self.assertEqual(a.cmd("DELIFEQ", self.key, "v3"), 0)
        self.assertEqual(a.cmd("DELEX", self.key + "2", "IFEQ", "v"), 1)

    def test_get_exists_ttl(self):
        a = self.connect()
        self.assertEqual(a.cmd("SET", self.key, "v", "NX", "PX", 20000), b"OK")
        self.assertEqual(a.cmd("GET", self.key), b"v")
        self.assertEqual(a.cmd("EXISTS", self.key, self.key + "-none"), 1)
        self.assertIn(a.cmd("TTL", self.key), range(10, 21))
        self.assertIn(a.cmd("PTTL", self.key), range(10000, 20002))
        self.assertEqual(a.cmd("TTL", self.key + "-none"), -2)
        self.assertEqual(a.cmd("PTTL", self.key + "-none"), -2)
        self.assertIsNone(a.cmd("GET", self.key + "-none"))

    def test_unknown_scripts_are_refused(self):
        a = self.connect(1)
        self.assertError(a.cmd("EVALSHA", "0" * 40, 1, self.key, "v"), "NOSCRIPT")
        self.assertError(a.cmd("EVAL", "return 1", 0), "ERR")

    def test_connection_commands(self):
        a = self.connect()
        self.assertEqual(a.cmd("PING"), b"PONG")
        self.assertEqual(a.cmd("PING", "hey"), b"hey")
        self.assertEqual(a.cmd("ECHO", "hey"), b"hey")
        self.assertEqual(a.cmd("SELECT", 0), b"OK")
        self.assertIsInstance(a.cmd("SELECT", 1), RespError)
        hello = a.cmd("HELLO", 3)
        self.assertIsInstance(hello, dict)
        self.assertEqual(hello[b"proto"], 3)
        self.assertIn(b"version", hello)
        self.assertError(a.cmd("HELLO", 4), "NOPROTO")
        self.assertEqual(a.cmd("RESET"), b"RESET")
        self.assertIsInstance(a.cmd("HELLO"), list)
        seconds, micros = a.cmd("TIME")
        self.assertLess(abs(int(seconds) - time.time()), 60)
        self.assertLess(int(micros), 1000000)
        self.assertGreater(a.cmd("COMMAND", "COUNT"), 20)
        self.assertIsInstance(a.cmd("CONFIG", "GET", "maxclients"), list)
        info = a.cmd("INFO").decode()
        self.assertRegex(info, r"(?m)^# \w+\r$")
        self.assertRegex(info, r"(?m)^redis_version:[\d.]+\r$")
        self.assertEqual(a.cmd("QUIT"), b"OK")
        self.assertTrue(a.at_end())

    def test_client_list_and_kill(self):
        a, b = self.connect(), self.connect()
        number = b.cmd("CLIENT", "ID")
        self.assertEqual(b.cmd("CLIENT", "SETNAME", "victim"), b"OK")
        self.assertEqual(b.cmd("CLIENT", "GETNAME"), b"victim")
        self.assertEqual(b.cmd("CLIENT", "SETINFO", "LIB-NAME", "test"), b"OK")
        self.assertIn(b"name=victim", b.cmd("CLIENT", "INFO"))
        lines = a.cmd("CLIENT", "LIST").decode().splitlines()
        self.assertTrue(any(re.search(rf"\bid={number}\b.*\bname=victim\b", line)
                            for line in lines), lines)
        self.assertEqual(a.cmd("CLIENT", "KILL", "ID", number), 1)
        self.assertTrue(b.at_end())
        self.assertEqual(a.cmd("CLIENT", "KILL", "ID", number), 0)
        self.assertEqual(a.cmd("PING"), b"PONG")

    def test_scan_walks_all_keys_once_or_more(self):
        a = self.connect(2)
        wanted = {f"scan:{i}".encode() for i in range(300)}
        for reply in self.connect(1).pipeline([("LOCK", k, "v", 30000) for k in wanted]):
            self.assertGranted(reply)

        def scan(*more):
            cursor, found = b"0", set()
            for _ in range(10000):
                cursor, keys = a.cmd("SCAN", cursor, *more)
                found |= set(keys)
                if cursor == b"0":
                    return found
            self.fail("SCAN never ends")
        eventually(lambda: wanted <= scan(), "all keys in SCAN")
        self.assertEqual(scan("MATCH", "scan:1?", "COUNT", 17),
                         {f"scan:1{i}".encode() for i in range(10)})
        self.assertGreaterEqual(a.cmd("DBSIZE"), 300)

    def test_inline_commands(self):
        a = self.connect()
        a.send_raw(b"PING\r\n\r\nping\nSET " + self.key.encode() + b' "a b\\x41" NX PX 20000\r\n')
        self.assertEqual([a.read(), a.read(), a.read()], [b"PONG", b"PONG", b"OK"])
        self.assertEqual(a.cmd("GET", self.key), b"a bA")

    def test_redis_cli_session(self):
        key = self.key
        lines = [f"LOCK {key} me 20000", f"LOCK {key} you 20000", f"READ {key} QUORUM",
                 f"RELEASE {key} you", f"RELEASE {key} me", "LAG", "SUMMARY", "NODES", "INFO"]
        out = self.redis_cli(stdin="\n".join(lines) + "\n")
        self.assertRegex(out, r"token\n\d+\nvalid-ms\n\d+\n")
        self.assertIn("\nme\n", out)
        self.assertIn("NOTOWNER ", out)
        out = self.redis_cli("LOCK", key, "me", 20000, number=2, dialect="-3")
        self.assertRegex(out, r"token \d+")
        self.assertEqual(self.redis_cli("PING"), "PONG\n")

    def test_redis_benchmark(self):
        host, port = self.cluster[1].address.split(":")
        for depth in ("1", "16"):
            done = subprocess.run(
                ["redis-benchmark", "-h", host, "-p", port, "-c", "20", "-n", "3000", "-P", depth,
                 "-r", "1000000000", "-q", "SET", "key:__rand_int__", "v", "NX", "PX", "5000"],
                capture_output=True, text=True, timeout=120, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("requests per second", done.stdout)
            self.assertNotIn("Error from server", done.stdout + done.stderr)


class TwoThreads(ClusterCase):
    """Keys live on two threads of each node; a connection does not notice."""
    options = {"threads": 2}

    def test_replies_come_in_request_order(self):
        a = self.connect(1)
        commands, expected = [], []
        for i in range(400):
            if i % 5 == 4:
                commands.append(("PING", f"p{i}"))
                expected.append(f"p{i}".encode())
            else:
                commands.append(("SET", f"order:{i}", f"v{i}", "NX", "PX", 30000))
                expected.append(b"OK")
        self.assertEqual(a.pipeline(commands), expected)
        reads = [("READ", f"order:{i}", "QUORUM") for i in range(400) if i % 5 != 4]
        self.assertEqual(self.connect(3).pipeline(reads), [c[2].encode() for c in commands
                                                           if c[0] == "SET"])

    def test_deep_pipeline_in_small_pieces(self):
        a = self.connect(2)
        data = b"".join(encode("SET", f"pieces:{i}", "v" * 50, "NX", "PX", 30000)
                        for i in range(300))

        def feed():
            for start in range(0, len(data), 777):
                a.send_raw(data[start:start + 777])
        join = background(feed)
        self.assertEqual([a.read() for _ in range(300)], [b"OK"] * 300)
        join()

    def test_wait_and_scan_reach_other_threads(self):
        a = self.connect(1)
        for i in range(8):
            key = f"{self.key}-{i}"
            join = background(self.connect(2).cmd, "WAITFOR", key, 15000)
            self.assertGranted(a.cmd("LOCK", key, f"v{i}", 20000))
            self.assertEqual(join(), f"v{i}".encode())
        found, cursor = set(), b"0"
        while True:
            cursor, keys = a.cmd("SCAN", cursor, "MATCH", self.key + "*")
            found |= set(keys)
            if cursor == b"0":
                break
        self.assertEqual(found, {f"{self.key}-{i}".encode() for i in range(8)})


class MixedThreads(ClusterCase):
    """Nodes of different size form one cluster."""

    @classmethod
    def setUpClass(cls):
        from harness import Cluster
        cls.cluster = Cluster(3, start=False)
        for node, threads in zip(cls.cluster.nodes, (1, 2, 3)):
            node.spawn(threads=threads)
        for node in cls.cluster.nodes:
            node.wait_ready()
        cls.cluster.wait_active()

    def test_locks_agree(self):
        for number in (1, 2, 3):
            replies = self.connect(number).pipeline(
                [("LOCK", f"mixed:{i}", f"n{number}", 30000) for i in range(60)])
            granted = [r for r in replies if r is not None]
            self.assertEqual(len(granted), 60 if number == 1 else 0, replies[:3])


if __name__ == "__main__":
    main()
