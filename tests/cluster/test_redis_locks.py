#!/usr/bin/env python3
"""Lock libraries of Redis, unmodified: their scripts are recognised and answered by operations."""
import hashlib
import importlib.util
import sys
import threading
import time

from harness import ClusterCase, RespError, eventually, main

# Debian's package serves Debian's Python; another one that comes first in PATH does not see it.
if importlib.util.find_spec("redis") is None:
    sys.path.append("/usr/lib/python3/dist-packages")
import redis  # noqa: E402
from redis.exceptions import LockError, LockNotOwnedError, ResponseError  # noqa: E402
from redis.lock import Lock  # noqa: E402

DELETE = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) " \
    "else return 0 end"
PY_RELEASE = "c3f8721cbb97f72bc19e972846bd7aaf91901658"
PY_REACQUIRE = "1cac51482acf5858da00f6d685d68f886cd6b6b2"
SYNC_RELEASE = "e950836ed1e694540c503ef9972b8de518044d3b"
NODE_LOCK = "96da70f7716f27d278a5218544df37fd8b0a5e4c"
NODE_EXTEND = "aed6f382e410db8ba7926d4e5e9aab410bf2a78a"
NODE_RELEASE = "e4612211c9f8f51c257e26e056b0a654b3187242"
RUBY_LOCK = "ceb2b2062e40c51a2b3963fd078bc71f11bdc65c"
RUBY_PTTL = "78d2ca48a6dc9ef6892059792a3a0c5237733d64"


def sha1(text):
    return hashlib.sha1(text.encode()).hexdigest()


class RedisPy(ClusterCase):
    """redis.lock.Lock of redis-py."""

    def py(self, number=1):
        host, port = self.cluster[number].address.rsplit(":", 1)
        client = redis.Redis(host=host, port=int(port), socket_timeout=20)
        self.addCleanup(client.close)
        return client

    def lock(self, number=1, **more):
        return Lock(self.py(number), self.key, **{"timeout": 20, "sleep": 0.02, **more})

    def remaining(self):
        holder = self.connect().cmd("HOLDER", self.key, "QUORUM")
        return None if holder is None else dict(zip(holder[::2], holder[1::2]))[b"remaining-ms"]

    def test_acquire_and_release_through_every_node(self):
        for number in (1, 2, 3):
            mine, theirs = self.lock(number), self.lock(number % 3 + 1)
            self.assertTrue(mine.acquire(blocking=False))
            self.assertTrue(eventually(mine.owned, "its own copy says so"))
            self.assertFalse(theirs.acquire(blocking=False))
            mine.release()
            self.assertTrue(theirs.acquire(blocking=False))
            theirs.release()
            self.assertIsNone(self.remaining())

    def test_context_manager(self):
        with self.lock() as held:
            self.assertIsNotNone(held.local.token)
            with self.assertRaises(LockError):
                with self.lock(2, blocking_timeout=0.1):
                    pass
        self.assertIsNone(self.remaining())

    def test_blocking_waits_for_the_release(self):
        first, second = self.lock(1), self.lock(2)
        self.assertTrue(first.acquire())
        # Its token is of this thread, and the timer has one of its own.
        timer = threading.Timer(0.5, first.do_release, [first.local.token])
        start = time.monotonic()
        timer.start()
        self.assertTrue(second.acquire(blocking_timeout=20))
        self.assertGreater(time.monotonic() - start, 0.4)
        timer.join()
        second.release()

    def test_extend_adds_to_what_is_left(self):
        lock = self.lock(timeout=10)
        self.assertTrue(lock.acquire())
        self.assertTrue(lock.extend(15))
        self.assertGreater(self.remaining(), 20000)
        self.assertLessEqual(self.remaining(), 25100)
        self.assertTrue(lock.extend(2, replace_ttl=True))
        self.assertGreater(self.remaining(), 20000 - 100)
        with self.assertRaisesRegex(ResponseError, "above max-lease"):
            lock.extend(45)
        lock.release()

    def test_reacquire_begins_the_lease_anew(self):
        lock = self.lock(timeout=5)
        self.assertTrue(lock.acquire())
        time.sleep(1.2)
        self.assertLess(self.remaining(), 4000)
        self.assertTrue(lock.reacquire())
        self.assertGreater(self.remaining(), 4000)
        lock.release()

    def test_who_does_not_own_it_is_told(self):
        lock = self.lock()
        self.assertTrue(lock.acquire())
        self.connect(2).cmd("RELEASE", self.key, lock.local.token)
        for again in (lock.reacquire, lambda: lock.extend(5), lock.release):
            with self.assertRaises(LockNotOwnedError):
                again()
        other = self.lock(3)
        self.assertTrue(other.acquire())
        lock.local.token = b"somebody else's"
        for again in (lock.reacquire, lambda: lock.extend(5), lock.release):
            lock.local.token = b"somebody else's"
            with self.assertRaises(LockNotOwnedError):
                again()
        self.assertTrue(eventually(other.owned, "still the other's"))
        other.release()

    def test_a_lock_without_end_is_refused(self):
        with self.assertRaisesRegex(ResponseError, "would never end"):
            Lock(self.py(), self.key).acquire()

    def test_library_and_raw_clients_never_overlap(self):
        stop = time.monotonic() + 4
        inside, worst, turns = [0], [0], {"py": 0, "raw": 0}
        guard = threading.Lock()
        failures = []

        def critical(kind):
            with guard:
                inside[0] += 1
                worst[0] = max(worst[0], inside[0])
                turns[kind] += 1
            time.sleep(0.002)
            with guard:
                inside[0] -= 1

        def library(number):
            lock = self.lock(number, sleep=0.003)
            while time.monotonic() < stop:
                try:
                    if lock.acquire(blocking_timeout=1):
                        critical("py")
                        lock.release()
                except (ResponseError, LockError) as error:
                    if error.args[0].split(" ")[0] not in ("NOQUORUM", "BUSY", "UNKNOWN"):
                        raise

        def raw(number):
            client = self.connect(number)
            value = f"raw-{number}"
            while time.monotonic() < stop:
                reply = client.cmd("LOCK", self.key, value, 20000, "WAIT", 300)
                if isinstance(reply, list):
                    critical("raw")
                    client.cmd("EVAL", DELETE, 1, self.key, value)

        def run(function, number):
            try:
                function(number)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(f, n))
                   for f in (library, raw) for n in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(failures, [])
        self.assertEqual(worst[0], 1)
        self.assertGreater(turns["py"], 0, turns)
        self.assertGreater(turns["raw"], 0, turns)


class Scripts(ClusterCase):
    """What libraries of other languages send."""
    options = {"threads": 2}

    def take(self, value="me", ttl=20000):
        self.assertGranted(self.connect(2).cmd("LOCK", self.key, value, ttl))

    def test_digests_work_without_a_load(self):
        a = self.connect(3)
        self.take()
        self.assertEqual(a.cmd("EVALSHA", PY_REACQUIRE, 1, self.key, "me", 30000), 1)
        self.assertEqual(a.cmd("EVALSHA", PY_REACQUIRE, 1, self.key, "you", 30000), 0)
        self.assertEqual(a.cmd("EVALSHA", SYNC_RELEASE, 1, self.key, "you"), 0)
        self.assertEqual(a.cmd("EVALSHA", SYNC_RELEASE, 1, self.key, "me"), 1)
        self.assertEqual(a.cmd("EVALSHA", SYNC_RELEASE, 1, self.key, "me"), -1)
        self.assertEqual(a.cmd("EVALSHA", PY_RELEASE, 1, self.key, "me"), 0)

    def test_a_life_of_a_node_redlock_lock(self):
        a, b = self.connect(1), self.connect(2)
        self.assertEqual(a.cmd("EVALSHA", NODE_LOCK, 1, self.key, "me", 10000), 1)
        self.assertEqual(b.cmd("EVALSHA", NODE_LOCK, 1, self.key, "you", 10000), 0)
        self.assertEqual(b.cmd("EVALSHA", NODE_LOCK, 1, self.key, "me", 10000), 0)
        self.assertEqual(a.cmd("EVALSHA", NODE_EXTEND, 1, self.key, "me", 20000), 1)
        self.assertEqual(a.cmd("EVALSHA", NODE_RELEASE, 1, self.key, "you"), 0)
        self.assertEqual(a.cmd("EVALSHA", NODE_RELEASE, 1, self.key, "me"), 1)
        self.assertError(a.cmd("EVALSHA", NODE_LOCK, 2, self.key, "k2", "me", 10000), "ERR")

    def test_a_life_of_a_redlock_rb_lock(self):
        a = self.connect(1, resp3=True)
        self.assertIsNone(a.cmd("EVALSHA", RUBY_LOCK, 1, self.key, "me", 10000, ""))
        self.assertEqual(a.cmd("EVALSHA", RUBY_PTTL, 1, self.key), [None, -2])
        self.assertEqual(a.cmd("EVALSHA", RUBY_LOCK, 1, self.key, "me", 10000, "yes"), b"OK")
        self.assertIsNone(a.cmd("EVALSHA", RUBY_LOCK, 1, self.key, "you", 10000, "yes"))
        self.assertEqual(a.cmd("EVALSHA", RUBY_LOCK, 1, self.key, "me", 20000, ""), b"OK")
        value, left = a.cmd("EVALSHA", RUBY_PTTL, 1, self.key)
        self.assertEqual(value, b"me")
        self.assertGreater(left, 10000)

    def test_a_text_is_loaded_once_for_all_connections_of_a_node(self):
        text = DELETE + " -- loaded by " + self.key
        clients = [self.connect(1) for _ in range(16)]
        for client in clients:
            self.assertError(client.cmd("EVALSHA", sha1(text), 1, self.key, "me"), "NOSCRIPT")
        self.assertEqual(clients[0].cmd("SCRIPT", "LOAD", text), sha1(text).encode())
        for client in clients:
            self.take()
            self.assertEqual(client.cmd("SCRIPT", "EXISTS", sha1(text), "0" * 40), [1, 0])
            self.assertEqual(client.cmd("EVALSHA", sha1(text).upper(), 1, self.key, "me"), 1)
        self.assertError(self.connect(2).cmd("EVALSHA", sha1(text), 1, self.key, "me"), "NOSCRIPT")

    def test_eval_leaves_its_digest_behind(self):
        a = self.connect()
        text = DELETE + " -- evaluated by " + self.key
        self.assertEqual(a.cmd("EVAL", text, 1, self.key, "me"), 0)
        self.assertEqual(a.cmd("EVALSHA", sha1(text), 1, self.key, "me"), 0)

    def test_what_is_not_recognised_changes_nothing(self):
        a = self.connect()
        self.take()
        unknown = "return redis.call('del', KEYS[1])"
        self.assertEqual(a.cmd("EVALSHA", "f" * 40, 1, self.key),
                         RespError("NOSCRIPT No matching script. Please use EVAL."))
        for words in (("EVAL", unknown, 1, self.key), ("SCRIPT", "LOAD", unknown)):
            reply = a.cmd(*words)
            self.assertError(reply, "ERR")
            self.assertRegex(reply.text, r"form [0-9a-f]{40}.*RELEASE")
        for ttl in (0, -1, "x", 24 * 3600 * 1000 + 1):
            self.assertIsInstance(a.cmd("EVALSHA", PY_REACQUIRE, 1, self.key, "me", ttl), RespError)
        self.assertEqual(a.cmd("READ", self.key, "QUORUM"), b"me")

    def test_without_a_majority_it_is_an_error(self):
        for number in (2, 3):
            self.cluster[number].pause()
        try:
            a = self.connect(1)
            reply = a.cmd("EVALSHA", PY_RELEASE, 1, self.key, "me")
            self.assertIn(reply.word, ("NOQUORUM", "UNKNOWN"))
        finally:
            for number in (2, 3):
                self.cluster[number].resume()
            self.cluster.wait_active()


class Redlock(ClusterCase):
    """A client that is given all three of our nodes, as if they were three Redis."""

    options = {"redlock_idempotent": "dlm:,redlock/"}

    def all_nodes(self, *words):
        clients = [self.connect(n) for n in (1, 2, 3)]
        for client in clients:
            client.send(*words)
        return [client.read() for client in clients]

    def take(self, key, value):
        """As Redlock does it: a majority, or give back what there is and try again."""
        for _ in range(5):
            replies = self.all_nodes("SET", key, value, "NX", "PX", 20000)
            if replies.count(b"OK") >= 2:
                return
            self.all_nodes("EVALSHA", PY_RELEASE, 1, key, value)
        self.fail(f"no majority: {replies}")

    def test_a_majority_says_ok_to_the_same_value(self):
        key = "dlm:" + self.key
        for attempt in range(5):
            value = f"value-{attempt}"
            self.take(key, value)
            self.assertEqual(self.all_nodes("SET", key, "other", "NX", "PX", 20000), [None] * 3)
            replies = self.all_nodes("EVALSHA", PY_REACQUIRE, 1, key, value, 20000)
            self.assertGreaterEqual(replies.count(1), 2, replies)
            self.all_nodes("EVALSHA", PY_RELEASE, 1, key, value)
            self.assertIsNone(self.connect().cmd("READ", key, "QUORUM"))

    def test_other_keys_are_taken_once(self):
        replies = self.all_nodes("SET", self.key, "v", "NX", "PX", 20000)
        self.assertLessEqual(replies.count(b"OK"), 1, replies)


if __name__ == "__main__":
    main()
