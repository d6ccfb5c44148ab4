#!/usr/bin/env python3
"""Looking on, and taking a lock away: LOCKS, BREAK, STATS, SHARDINFO, OBSERVE, and `locker list`,
`break`, `stats`, over real nodes of several threads."""
import json
import subprocess
import unittest

from harness import (LOCKER_CLI, Cluster, ClusterCase, Push, as_map, background, eventually,
                     free_address, main)

DONE, REFUSED, USAGE, UNSURE, UNREACHABLE = range(5)


def locker(*words, nodes):
    """(exit status, stdout, stderr)"""
    done = subprocess.run([LOCKER_CLI, "--node", nodes, *map(str, words)], capture_output=True,
                          timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def walk(client, *options):
    """All locks that LOCKS tells of, as a list of maps, and how many calls it took."""
    cursor, found, calls = 0, [], 0
    while True:
        cursor, page = client.cmd("LOCKS", "CURSOR", cursor, *options)
        found += map(as_map, page)
        calls += 1
        if cursor == 0:
            return found, calls


class Looking(ClusterCase):
    options = {"threads": 2}

    def test_locks_of_every_node(self):
        a = self.connect(1)
        a.cmd("CLIENT", "SETNAME", "somebody")
        wanted = {}
        for i in range(300):
            key = f"{self.key}:{i}".encode()
            wanted[key] = self.assertGranted(a.cmd("LOCK", key, f"v{i}", 50000))[b"token"]
        for number in (1, 2, 3):
            for resp3 in (False, True):
                client = self.connect(number, resp3=resp3)
                eventually(lambda c=client: len(walk(c, "PREFIX", self.key + ":")[0]) >= 300,
                           f"all are known to node {number}")
                for options in ((), ("COUNT", 1), ("COUNT", 10 ** 18)):
                    found, _ = walk(client, "PREFIX", self.key + ":", *options)
                    self.assertEqual({m[b"key"]: m[b"token"] for m in found}, wanted)
        for lock in found:
            self.assertEqual(list(lock), [b"key", b"value", b"token", b"remaining-ms", b"held-ms",
                                          b"node", b"client", b"waiters"])
            self.assertEqual(lock[b"value"], b"v" + lock[b"key"].split(b":")[1])
            self.assertEqual((lock[b"node"], lock[b"client"], lock[b"waiters"]),
                             (1, b"somebody", 0))
            self.assertTrue(0 < lock[b"remaining-ms"] <= 50001)
            self.assertTrue(0 <= lock[b"held-ms"] < 50000)
        self.assertEqual(walk(client, "PREFIX", self.key + ":300")[0], [])
        self.assertEqual([m[b"key"] for m in walk(client, "PREFIX", self.key + ":299")[0]],
                         [self.key.encode() + b":299"])
        self.assertEqual(walk(client, "PREFIX", "k" * 512)[0], [])
        everything = {m[b"key"] for m in walk(client)[0]}
        self.assertLessEqual(set(wanted), everything)

    def test_probe_keys_are_hidden(self):
        probing, looking = self.connect(1), self.connect(1)
        for _ in range(20):
            probing.send("LAG")
            self.assertFalse([m for m in walk(looking)[0] if b"probe" in m[b"key"]])
            probing.read()

    def test_who_stands_in_line_here(self):
        a = self.connect(1)
        self.assertGranted(a.cmd("LOCK", self.key, "v", 50000))
        for _ in range(3):
            self.connect(2).send("LOCK", self.key, "w", 1000, "WAIT", 50000)
        self.connect(2).send("WAITRELEASE", self.key, 50000)

        def waiters(number):
            found = walk(self.connect(number), "PREFIX", self.key)[0]
            return [m[b"waiters"] for m in found]
        eventually(lambda: waiters(2) == [3], "three in line at node 2")
        self.assertEqual(waiters(1), [0])

    def test_break_takes_one_grant_and_no_other(self):
        for number in (1, 2, 3):
            key = f"{self.key}-{number}"
            holder, other = self.connect(1), self.connect(number, resp3=True)
            self.assertError(other.cmd("BREAK", key, "TOKEN", 5), "NOTFOUND")
            old = self.assertGranted(holder.cmd("LOCK", key, "same", 50000))[b"token"]
            as_map(holder.cmd("RELEASE", key, "same"))
            token = self.assertGranted(holder.cmd("LOCK", key, "same", 50000))[b"token"]
            self.assertError(other.cmd("BREAK", key, "TOKEN", old), "NOTOWNER")
            self.assertEqual(other.cmd("CHECK", key, token), 1)
            self.assertGranted(holder.cmd("UPDATE", key, "same", "secret"))
            reply = other.cmd("BREAK", key, "TOKEN", token)
            self.assertEqual(list(reply), [b"token", b"quorum", b"votes", b"commits"])
            self.assertEqual((reply[b"token"], reply[b"quorum"]), (token, 2))
            self.assertError(holder.cmd("EXTEND", key, "secret", 50000), "NOTFOUND")
            self.assertError(other.cmd("BREAK", key, "TOKEN", token), "NOTFOUND")
            again = self.assertGranted(other.cmd("LOCK", key, "next", 50000))[b"token"]
            self.assertGreater(again, token)
            self.assertError(holder.cmd("BREAK", key, "TOKEN", token), "NOTOWNER")

    def test_break_hands_the_lock_to_who_waits(self):
        a = self.connect(1)
        token = self.assertGranted(a.cmd("LOCK", self.key, "v", 50000))[b"token"]
        join = background(self.connect(2).cmd, "LOCK", self.key, "w", 20000, "WAIT", 20000)
        eventually(lambda: self.connect(2).cmd("LOCKS", "CURSOR", 0) and [
            m for m in walk(self.connect(2), "PREFIX", self.key)[0] if m[b"waiters"] == 1],
            "it stands in line")
        as_map(self.connect(3).cmd("BREAK", self.key, "TOKEN", token))
        self.assertGreater(self.assertGranted(join())[b"token"], token)

    def test_break_is_logged(self):
        a, b = self.connect(1), self.connect(2)
        key = b"\n\x1b[2J\xff" + self.key.encode() + b"k" * 200
        token = self.assertGranted(a.cmd("LOCK", key, "v", 50000))[b"token"]
        self.assertEqual(b.cmd("CLIENT", "SETNAME", "operator"), b"OK")
        self.assertError(b.cmd("BREAK", key, "TOKEN", token - 1), "NOTOWNER")
        as_map(b.cmd("BREAK", key, "TOKEN", token))
        line = eventually(lambda: [x for x in self.cluster[2].log().splitlines()
                                   if "breaks lock" in x and self.key in x], "a line")
        self.assertEqual(len(line), 1)
        self.assertRegex(line[0], r"warn .*client operator at 127\.\S+ breaks lock "
                         r"\\x0a\\x1b\[2J\\xff" + self.key + rf"k+\.\.\., token {token}: done$")
        self.assertLess(len(line[0]), 400)

    def test_bounds_and_syntax(self):
        a = self.connect()
        for words in (["LOCKS"], ["LOCKS", "CURSOR", "x"], ["LOCKS", "CURSOR", -1],
                      ["LOCKS", "CURSOR", 0, "COUNT", 0], ["LOCKS", "CURSOR", 0, "LIMIT", 5],
                      ["BREAK", "k"], ["BREAK", "k", "TOKEN", 0], ["BREAK", "", "TOKEN", 1],
                      ["BREAK", "k", "VALUE", "v"], ["STATS", "all"], ["SHARDINFO", 1]):
            self.assertError(a.cmd(*words), "ERR")
        self.assertError(a.cmd("LOCKS", "CURSOR", 0, "PREFIX", "k" * 513), "LIMIT")
        # Cursors that nobody gave out end like any other.
        for cursor in (1, 12345, 2 ** 32, 2 ** 33 - 1):
            reply = a.cmd("LOCKS", "CURSOR", cursor)
            self.assertEqual(len(reply), 2, reply)

    def test_stats_are_what_info_tells(self):
        a = self.connect(1, resp3=True)
        self.assertGranted(a.cmd("LOCK", self.key, "v", 50000))
        stats = a.cmd("STATS")
        info = dict(line.split(b":", 1) for line in a.cmd("INFO").split(b"\r\n") if b":" in line)
        for name in (b"node", b"threads", b"slots", b"slots_voting", b"operations_max", b"quorum",
                     b"max_lease_ms", b"maxclients", b"epoch"):
            self.assertEqual(stats[name], int(info[name]), name)
        self.assertEqual((stats[b"state"], stats[b"member_role"]), (b"active", b"master"))
        self.assertLessEqual({n for n in stats if n != b"shards"}, set(info))
        self.assertGreaterEqual(stats[b"granted"], 1)
        shards = stats[b"shards"]
        self.assertEqual([s[b"shard"] for s in shards], [0, 1])
        for name in (b"leases", b"promises", b"waiters", b"operations", b"slots", b"granted"):
            self.assertEqual(sum(s[name] for s in shards), stats[name], name)
        flat = as_map(self.connect(1).cmd("STATS"))
        self.assertEqual(set(flat), set(stats))
        self.assertEqual(as_map(flat[b"shards"][1])[b"shard"], 1)

    def test_shardinfo(self):
        seen = set()
        for _ in range(64):
            with self.cluster[1].client(resp3=True) as client:
                info = client.cmd("SHARDINFO")
            self.assertEqual((info[b"slots"], info[b"shards"], info[b"direct"]), (64, 2, []))
            self.assertEqual(info[b"address"].decode(), self.cluster[1].address)
            seen.add(info[b"shard"])
        self.assertEqual(seen, {0, 1})


class Observing(ClusterCase):
    options = {"threads": 2}

    def observer(self, number, *keys):
        client = self.connect(number, resp3=True)
        client.send("OBSERVE", *keys)
        pushes = [self.push(client) for _ in keys]
        self.assertEqual(client.read(), b"OK")
        return client, pushes

    def push(self, client):
        """The next event: (key, event, value, token)."""
        message = client.read()
        self.assertIsInstance(message, Push)
        self.assertEqual((len(message), message[0]), (5, b"observe"))
        return tuple(message[1:])

    def test_a_life_seen_from_every_node(self):
        key = self.key.encode()
        watchers = []
        for number in (1, 2, 3):
            client, pushes = self.observer(number, key)
            self.assertEqual(pushes, [(key, b"released", None, None)])
            watchers.append(client)
        a, b = self.connect(1), self.connect(2)
        first = self.assertGranted(a.cmd("LOCK", key, "v", 30000))[b"token"]
        self.assertGranted(b.cmd("UPDATE", key, "v", "w"))
        self.assertGranted(a.cmd("EXTEND", key, "w", 40000))
        as_map(b.cmd("RELEASE", key, "w"))
        second = self.assertGranted(b.cmd("LOCK", key, "x", 300))[b"token"]
        wanted = [(key, b"granted", b"v", first), (key, b"updated", b"w", first),
                  (key, b"released", None, first), (key, b"granted", b"x", second),
                  (key, b"expired", None, second)]
        for client in watchers:
            # A node that hears of the grant and its update at once tells of one event.
            seen = [self.push(client) for _ in wanted[:4]]
            if seen[0] == (key, b"granted", b"w", first):
                self.assertEqual(seen, [seen[0], *wanted[2:]])
            else:
                self.assertEqual(seen + [self.push(client)], wanted)

    def test_the_present_comes_first(self):
        a = self.connect(2)
        keys = [f"{self.key}-{i}".encode() for i in range(20)]
        tokens = {k: self.assertGranted(a.cmd("LOCK", k, b"v" + k, 50000))[b"token"]
                  for k in keys[:10]}
        for k in keys[:10]:
            eventually(lambda k=k: self.connect(2).cmd("READ", k), "the copy")
        _, pushes = self.observer(2, *keys)
        self.assertEqual(set(pushes), {
            (k, b"granted", b"v" + k, tokens[k]) if k in tokens else (k, b"released", None, None)
            for k in keys})

    def test_a_lock_that_is_broken_and_handed_on(self):
        a = self.connect(1)
        token = self.assertGranted(a.cmd("LOCK", self.key, "v", 50000))[b"token"]
        eventually(lambda: self.connect(3).cmd("READ", self.key), "the copy")
        client, pushes = self.observer(3, self.key)
        self.assertEqual(pushes[0][1:], (b"granted", b"v", token))
        join = background(self.connect(2).cmd, "LOCK", self.key, "w", 20000, "WAIT", 20000)
        eventually(lambda: walk(self.connect(2), "PREFIX", self.key)[0][0][b"waiters"] == 1,
                   "it stands in line")
        as_map(a.cmd("BREAK", self.key, "TOKEN", token))
        self.assertEqual(self.push(client)[1:], (b"released", None, token))
        again = self.assertGranted(join())[b"token"]
        self.assertEqual(self.push(client)[1:], (b"granted", b"w", again))

    def test_no_more_after_unobserve(self):
        a = self.connect(1)
        client, _ = self.observer(1, self.key + "-a", self.key + "-b")
        self.assertEqual(client.cmd("UNOBSERVE", self.key + "-a"), b"OK")
        self.assertGranted(a.cmd("LOCK", self.key + "-a", "v", 50000))
        self.assertGranted(a.cmd("LOCK", self.key + "-b", "v", 50000))
        self.assertEqual(self.push(client)[:2], (self.key.encode() + b"-b", b"granted"))
        self.assertEqual(client.cmd("UNOBSERVE"), b"OK")
        as_map(a.cmd("RELEASE", self.key + "-b", "v"))
        self.assertEqual(client.cmd("PING"), b"PONG")
        self.assertEqual(client.cmd("STATS")[b"observers"], 0)

    def test_needs_resp3(self):
        self.assertError(self.connect().cmd("OBSERVE", self.key), "ERR")


class Words(ClusterCase):
    """The command line client."""
    options = {"threads": 2}

    def locker(self, *words, number=1):
        return locker(*words, nodes=self.cluster[number].address)

    def json(self, *words):
        status, out, _ = self.locker("--json", *words)
        self.assertEqual(out.count(b"\n"), 1)
        return status, json.loads(out)

    def test_list(self):
        a = self.connect(1)
        a.cmd("CLIENT", "SETNAME", "worker")
        tokens = {}
        for i in range(400):
            key = f"{self.key}/{i:03d}"
            tokens[key] = self.assertGranted(a.cmd("LOCK", key, "v" * i, 59000))[b"token"]
        status, reply = self.json("list", self.key + "/")
        self.assertEqual((status, reply["outcome"]), (DONE, "ok"))
        self.assertEqual([r["key"] for r in reply["reply"]], sorted(tokens))
        self.assertEqual({r["key"]: r["token"] for r in reply["reply"]}, tokens)
        self.assertEqual(set(reply["reply"][0]), {"key", "value", "token", "remaining-ms",
                                                  "held-ms", "node", "client", "waiters"})
        self.assertEqual(reply["reply"][300]["value"], "v" * 300)
        status, out, err = self.locker("list", self.key + "/0")
        self.assertEqual((status, err), (DONE, b""))
        lines = out.decode().splitlines()
        self.assertRegex(lines[0], r"^key +value +token +age +remaining +node +client +waiters$")
        self.assertEqual(len(lines), 101)
        self.assertRegex(lines[4], rf"^{self.key}/003 +vvv +{tokens[self.key + '/003']} +"
                         r"\d+ m?s +\d\d s +1 +worker +0$")
        self.assertRegex(lines[100], r"/099 +v{40}\.\.\. ")
        self.assertEqual(len({len(line) for line in lines}), 1)
        self.assertEqual(len(self.locker("list", self.key + "/none")[1].splitlines()), 1)
        self.assertEqual(self.json("list", self.key + "/none")[1]["reply"], [])

    def test_list_of_bytes_that_are_no_text(self):
        key = b"\x1b[2J\xff " + "é".encode()
        with self.cluster[1].client() as client:
            self.assertGranted(client.cmd("LOCK", key, b"\r\n\0", 50000))
        status, out, _ = self.locker("list", "\x1b[2J")
        self.assertEqual(status, DONE)
        self.assertIn(b"\\x1b[2J\\xff \xc3\xa9  \\x0d\\x0a\\x00 ", out)
        self.assertNotIn(b"\x1b", out)

    def test_break(self):
        a = self.connect(2)
        token = self.assertGranted(a.cmd("LOCK", self.key, "v", 50000))[b"token"]
        status, reply = self.json("break", self.key, "--token", token - 1)
        self.assertEqual((status, reply["outcome"]), (REFUSED, "notowner"))
        status, out, err = self.locker("break", self.key, "--token", token)
        self.assertEqual((status, err), (DONE, b""))
        self.assertRegex(out, rb"(?m)^token +%d$" % token)
        status, reply = self.json("break", "--token", token, self.key)
        self.assertEqual((status, reply["outcome"]), (REFUSED, "notfound"))
        self.assertEqual(a.cmd("READ", self.key, "QUORUM"), None)

    def test_stats(self):
        status, reply = self.json("stats")
        self.assertEqual((status, reply["outcome"]), (DONE, "ok"))
        self.assertEqual([s["shard"] for s in reply["reply"]["shards"]], [0, 1])
        status, out, err = self.locker("stats")
        self.assertEqual((status, err), (DONE, b""))
        self.assertRegex(out, rb"(?m)^state +active$")
        self.assertRegex(out, rb"(?m)^ +shard +1$")

    def test_wrong_usage(self):
        for words in (["list", "a", "b"], ["list", "--prefix", "a"], ["list", "k" * 513],
                      ["break"], ["break", "k"], ["break", "k", "--token"],
                      ["break", "k", "--token", "x"], ["break", "--token", "5"],
                      ["break", "k", "v", "--token", "5"], ["stats", "all"]):
            status, _, err = self.locker(*words)
            self.assertEqual(status, USAGE, words)
            self.assertNotEqual(err, b"", words)
        for command in (b"list", b"break", b"stats"):
            self.assertRegex(self.locker("--help")[1], rb"(?m)^  %s( |$)" % command)
        self.assertEqual(self.locker("list", "--", "--none")[0], DONE)


class Failing(unittest.TestCase):
    def test_without_a_quorum(self):
        with Cluster(3, attempt_time=500) as cluster:
            with cluster[1].client() as client:
                token = as_map(client.cmd("LOCK", "k", "v", 50000))[b"token"]
            cluster[2].kill()
            cluster[3].kill()
            # A node's own copy needs nobody.
            status, out, _ = locker("--json", "list", nodes=cluster[1].address)
            self.assertEqual(status, DONE)
            self.assertEqual([r["key"] for r in json.loads(out)["reply"]], ["k"])
            status, out, _ = locker("--json", "break", "k", "--token", token,
                                    nodes=cluster[1].address)
            self.assertEqual((status, json.loads(out)["outcome"]), (UNSURE, "noquorum"))
            self.assertNotIn("breaks lock", cluster[1].log())

    def test_a_node_without_a_copy(self):
        with Cluster(3, attempt_time=500) as cluster:
            node = cluster.add_node()
            with node.client() as client:
                for words in (["LOCKS", "CURSOR", 0], ["LOCKS", "CURSOR", 0, "PREFIX", "k"]):
                    reply = client.cmd(*words)
                    self.assertEqual(getattr(reply, "word", reply), "NOTREADY")
                self.assertEqual(as_map(client.cmd("STATS"))[b"state"], b"nonmember")
                # It coordinates all the same.
                token = as_map(client.cmd("LOCK", "k", "v", 50000))[b"token"]
                self.assertEqual(as_map(client.cmd("BREAK", "k", "TOKEN", token))[b"token"], token)
            status, out, _ = locker("--json", "list", nodes=node.address)
            self.assertEqual((status, json.loads(out)["outcome"]), (UNSURE, "notready"))

    def test_an_observer_at_a_node_that_leaves(self):
        with Cluster(3, attempt_time=500, threads=2) as cluster:
            node = cluster.add_node()
            client = node.client(resp3=True)
            self.addCleanup(client.close)
            client.send("OBSERVE", "k", "l")
            events = [client.read()[1:3] for _ in range(2)]
            self.assertEqual(sorted(events), [[b"k", b"lost"], [b"l", b"lost"]])
            self.assertEqual(client.read(), b"OK")
            with cluster[1].client() as other:
                token = as_map(other.cmd("LOCK", "k", "v", 50000))[b"token"]
            self.assertEqual(cluster.set_nodes_at_last([1, 2, 3], [4]), b"OK")
            events = [client.read()[1:] for _ in range(2)]
            self.assertEqual(sorted(events, key=lambda e: e[0]), [
                [b"k", b"granted", b"v", token], [b"l", b"released", None, None]])
            with cluster[1].client() as other:
                as_map(other.cmd("UPDATE", "k", "v", "w"))
                self.assertEqual(client.read()[1:], [b"k", b"updated", b"w", token])
                as_map(other.cmd("RELEASE", "k", "w"))
                self.assertEqual(client.read()[1:], [b"k", b"released", None, token])
            self.assertEqual(cluster.set_nodes_at_last([1, 2, 3], []), b"OK")
            events = [client.read()[1:3] for _ in range(2)]
            self.assertEqual(sorted(events), [[b"k", b"lost"], [b"l", b"lost"]])

    def test_nobody_there(self):
        for words in (["list"], ["break", "k", "--token", 5], ["stats"]):
            self.assertEqual(locker(*words, nodes=free_address())[0], UNREACHABLE)


if __name__ == "__main__":
    main()
