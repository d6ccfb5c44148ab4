#!/usr/bin/env python3
"""Masters that come, go and are replaced while the cluster is in use; who waits, who is refused."""
import re
import shutil
import time
import unittest

from harness import Closed, Cluster, Node, RespError, as_map, eventually, main, node_rows
from load import OPTIONS, Keeper, Load, agreed, in_background, say
from test_cli import DONE, REFUSED, UNSURE, USAGE, locker, on_terminal


class Case(unittest.TestCase):
    def cluster_of(self, n=3, **options):
        cluster = Cluster(n, **{**OPTIONS, **options})
        self.addCleanup(cluster.abandon)
        return cluster

    def load(self, cluster, **more):
        load = Load(cluster, **more)
        self.addCleanup(load.close)
        return load.begin()

    def assertWord(self, reply, word):
        self.assertIsInstance(reply, RespError, f"expected {word}, got {reply!r}")
        self.assertEqual(reply.word, word, reply.text)

    def granted(self, reply):
        if reply is None or isinstance(reply, RespError):
            self.fail(f"not granted: {reply!r}")
        return as_map(reply)

    def row(self, node, of):
        """What @node tells about @of."""
        with node.client() as client:
            return node_rows(client)[of.id]

    def judge(self, cluster, load, keeper, nodes):
        """All is as it should be, says everybody."""
        load.more()
        self.assertEqual(load.judged(), [])
        for node in nodes:
            self.assertEqual(keeper.wrong(node), [])
        cluster.close()


class UnderLoad(Case):
    def test_three_masters_five_and_three_again(self):
        cluster = self.cluster_of()
        cluster.add_node()
        cluster.add_node(join=cluster[2])
        keeper, load = Keeper(cluster[1]), self.load(cluster)
        reply = load.during("3 to 5", cluster.set_nodes, (1, 2, 3, 4, 5), by=cluster[2])
        self.assertEqual(reply, b"OK")
        agreed(cluster.nodes, (1, 2, 3, 4, 5))
        cluster.wait_active()
        load.more()
        with cluster[5].client() as client:
            self.assertEqual(self.granted(client.cmd("LOCK", "five", "v", 20000))[b"quorum"], 3)
        reply = load.during("5 to 3, less two founders", cluster.set_nodes, (3, 4, 5),
                            by=cluster[4])
        self.assertEqual(reply, b"OK")
        agreed(cluster.nodes, (3, 4, 5))
        for founder in cluster[1], cluster[2]:
            self.assertEqual(self.row(founder, founder)[b"role"], b"nonmember")
        with cluster[1].client() as client:
            self.assertIsNone(client.cmd("LOCK", "five", "w", 1000))
            self.assertEqual(self.granted(client.cmd("RELEASE", "five", "v"))[b"quorum"], 2)
        self.judge(cluster, load, keeper, [cluster[1], cluster[5]])

    def test_a_dead_master_is_replaced(self):
        cluster = self.cluster_of()
        fourth = cluster.add_node()
        keeper, load = Keeper(cluster[1]), self.load(cluster)
        cluster[3].kill()
        eventually(lambda: self.row(cluster[1], cluster[3])[b"state"] == b"down", "3 is down")
        reply = load.during("3 is dead, 4 takes its place", cluster.set_nodes, (1, 2, 4))
        self.assertEqual(reply, b"OK")
        agreed([cluster[1], cluster[2], fourth], (1, 2, 4))
        # Its vote counts: without it there is no quorum.
        load.more()
        self.assertEqual(load.judged(), [])
        cluster[2].pause()
        with fourth.client() as client:
            eventually(lambda: not isinstance(client.cmd("LOCK", "k", "v", 1000), RespError),
                       "1 and 4 are a quorum", 60)
        cluster[2].resume()
        cluster.wait_active(nodes=[cluster[1], cluster[2], fourth])
        self.assertEqual(keeper.wrong(fourth), [])
        cluster.close()

    def test_a_replica_is_promoted_and_votes(self):
        cluster = self.cluster_of()
        fourth = cluster.add_node()
        self.assertEqual(cluster.set_nodes((1, 2, 3), (4,)), b"OK")
        keeper, load = Keeper(cluster[1]), self.load(cluster)
        reply = load.during("promote 4, demote 3", cluster.set_nodes, (1, 2, 4), (3,))
        self.assertEqual(reply, b"OK")
        agreed(cluster.nodes, (1, 2, 4), (3,))
        load.more()
        self.assertEqual(load.judged(), [])
        # Its vote is needed where another is away: two of three, and three of three that are left
        # of four.
        for masters, quorum in (((1, 2, 4), 2), ((1, 2, 3, 4), 3)):
            self.assertEqual(cluster.set_nodes_at_last(masters), b"OK")
            cluster[1].pause()
            with fourth.client() as client:
                grant = as_map(Keeper.insist(client, "LOCK", f"k{quorum}", "v", 20000))
            self.assertEqual((grant[b"quorum"], grant[b"votes"]), (quorum, quorum))
            cluster[1].resume()
            cluster.wait_active(nodes=[cluster[i] for i in masters])
        cluster.wait_active()
        self.assertEqual(keeper.wrong(cluster[3]), [])
        cluster.close()

    def test_the_node_that_makes_the_change_dies(self):
        cluster = self.cluster_of()
        cluster.add_node()
        cluster.add_node()
        keeper, load = Keeper(cluster[1]), self.load(cluster)
        join = in_background(cluster, (1, 2, 3, 4, 5), by=cluster[3])

        def begun():
            with cluster[1].client() as client:
                return as_map(client.cmd("NODES"))[b"epoch"] > 1
        eventually(begun, "the first step is done", pause=0)
        cluster[3].kill()
        try:
            say(f"  the change was done before its node died: {join()}")
        except (Closed, OSError):
            pass
        reply = load.during("the same from another node, 3 is dead", cluster.set_nodes_at_last,
                            (1, 2, 4, 5), by=cluster[2])
        self.assertEqual(reply, b"OK")
        cluster[3].start()
        reply = load.during("3 comes back, and is named again", cluster.set_nodes_at_last,
                            (1, 2, 3, 4, 5), by=cluster[2])
        self.assertEqual(reply, b"OK")
        agreed(cluster.nodes, (1, 2, 3, 4, 5))
        self.judge(cluster, load, keeper, [cluster[3], cluster[4]])

    def test_two_changes_at_once(self):
        cluster = self.cluster_of()
        cluster.add_node()
        cluster.add_node()
        keeper, load = Keeper(cluster[1]), self.load(cluster)
        rivals = [in_background(cluster, (1, 2, 3, 4), by=cluster[1]),
                  in_background(cluster, (1, 2, 3, 5), by=cluster[2])]
        replies = [join(200) for join in rivals]
        say(f"  rivals: {replies}")
        for reply in replies:
            if reply != b"OK":
                self.assertIn(reply.word, ("BUSY", "NOTREADY", "NOQUORUM"), reply.text)
        with cluster[1].client() as client:
            masters = set(as_map(client.cmd("NODES"))[b"masters"])
        self.assertLessEqual({1, 2, 3}, masters)
        self.assertEqual(cluster.set_nodes_at_last((1, 2, 3, 4, 5), by=cluster[3]), b"OK")
        agreed(cluster.nodes, (1, 2, 3, 4, 5))
        self.judge(cluster, load, keeper, [cluster[2], cluster[5]])


class Members(Case):
    def test_who_joins_waits_until_named(self):
        cluster = self.cluster_of()
        fourth = cluster.add_node(join=cluster[3])
        for node in cluster.nodes:
            row = eventually(lambda node=node: self.row_or_none(node, fourth),
                             f"node {node.id} knows node 4")
            self.assertEqual((row[b"role"], row[b"state"]), (b"nonmember", b"nonmember"))
            self.assertEqual(row[b"address"].decode(), fourth.peer_address)
        agreed(cluster.nodes, (1, 2, 3))
        with cluster[1].client() as first, fourth.client() as client:
            self.granted(first.cmd("LOCK", "k", "v", 20000))
            # It coordinates, and has no copy of its own.
            self.assertIsNone(client.cmd("LOCK", "k", "w", 1000))
            self.assertEqual(client.cmd("READ", "k", "QUORUM"), b"v")
            self.assertWord(client.cmd("READ", "k"), "NOTREADY")
            self.assertWord(client.cmd("WAITFOR", "k", 100), "NOTREADY")
            grant = self.granted(client.cmd("LOCK", "k4", "v", 20000))
            self.assertEqual(grant[b"quorum"], 2)
        # It does not vote.
        cluster[2].pause()
        cluster[3].pause()
        with cluster[1].client() as client:
            eventually(lambda: getattr(client.cmd("LOCK", "k5", "v", 1000), "word", "")
                       == "NOQUORUM", "no quorum without two masters")
        cluster[2].resume()
        cluster[3].resume()
        cluster.wait_active(nodes=cluster.founders)
        self.assertEqual(cluster.set_nodes_at_last((1, 2, 3, 4), ()), b"OK")
        row = self.row(cluster[2], fourth)
        self.assertEqual((row[b"role"], row[b"state"]), (b"master", b"active"))
        with fourth.client() as client:
            self.assertEqual(client.cmd("READ", "k"), b"v")
        cluster.close()

    def row_or_none(self, node, of):
        with node.client() as client:
            return node_rows(client).get(of.id)

    def test_it_waits_for_a_member_to_join_by(self):
        cluster = self.cluster_of(1, start=False)
        late = cluster.add_node(start=False)
        late.spawn()
        time.sleep(1)
        self.assertTrue(late.running())
        self.assertNotRegex(late.log(), r"\bready\b")
        cluster[1].start()
        late.wait_ready()
        cluster.wait_known(late, cluster[1])
        self.assertEqual(cluster.set_nodes((1,), (2,)), b"OK")
        # What it was told is in its state file: no member is needed to begin with.
        cluster[1].terminate()
        late.terminate()
        late.spawn()
        cluster[1].start()
        late.wait_ready()
        eventually(lambda: self.row(cluster[1], late)[b"state"] == b"active", "2 copies again")
        cluster.close()

    def test_a_removed_node_votes_no_more_and_says_so(self):
        cluster = self.cluster_of()
        keeper = Keeper(cluster[1], 50)
        self.assertEqual(cluster.set_nodes((1, 2)), b"OK")
        agreed(cluster.nodes, (1, 2))
        third = cluster[3]
        self.assertEqual(self.row(third, third)[b"role"], b"nonmember")
        self.assertEqual(self.row(third, third)[b"state"], b"nonmember")
        self.assertRegex(third.log(), r"this node is a master no more: it has stopped voting")
        with third.client() as client:
            grant = self.granted(client.cmd("LOCK", "k", "v", 20000))
            self.assertEqual((grant[b"quorum"], grant[b"votes"]), (2, 2))
            eventually(lambda: getattr(client.cmd("READ", "k"), "word", "") == "NOTREADY",
                       "it has no copy any more")
        cluster[2].pause()
        with cluster[1].client() as client:
            eventually(lambda: getattr(client.cmd("LOCK", "k2", "v", 1000), "word", "")
                       == "NOQUORUM", "3 does not vote, so 1 is alone")
        cluster[2].resume()
        cluster.wait_active(nodes=[cluster[1], cluster[2]])
        self.assertEqual(keeper.wrong(third), [])
        # It may come again.
        self.assertEqual(cluster.set_nodes_at_last((1, 2, 3), by=third), b"OK")
        self.assertEqual(self.row(third, third)[b"role"], b"master")
        self.assertEqual(keeper.wrong(third), [])
        cluster.close()

    def test_an_outdated_state_file_does_no_harm(self):
        cluster = self.cluster_of()
        fourth, fifth = cluster.add_node(), cluster.add_node()
        keeper = Keeper(cluster[1], 50)
        cluster[3].terminate()
        # 3 is away while it is voted out, 2 while others come.
        self.assertEqual(cluster.set_nodes_at_last((1, 2, 4)), b"OK")
        cluster[2].terminate()
        self.assertEqual(cluster.set_nodes_at_last((1, 4, 5)), b"OK")
        epoch = agreed([cluster[1], fourth, fifth], (1, 4, 5))
        cluster[3].start()
        cluster[2].start()
        self.assertEqual(agreed(cluster.nodes, (1, 4, 5)), epoch)
        for node in cluster[2], cluster[3]:
            self.assertEqual(self.row(node, node)[b"role"], b"nonmember")
            self.assertEqual(keeper.wrong(node), [])
        # Two that think themselves masters of an older configuration are no quorum.
        for node in cluster[1], fourth, fifth:
            node.pause()
        with cluster[2].client() as client:
            self.assertWord(client.cmd("LOCK", "new", "v", 1000), "NOQUORUM")
        for node in cluster[2], cluster[3]:
            node.kill()
            node.spawn()
        cluster[3].wait_ready()
        with cluster[3].client() as client:
            for _ in range(5):
                self.assertWord(client.cmd("LOCK", "new", "v", 1000), "NOQUORUM")
        for node in cluster[1], fourth, fifth:
            node.resume()
        cluster.wait_active(nodes=[cluster[1], fourth, fifth])
        self.assertEqual(keeper.wrong(cluster[1]), [])
        cluster.close()

    def test_a_master_that_was_away_learns_and_votes(self):
        cluster = self.cluster_of()
        fourth = cluster.add_node()
        keeper = Keeper(cluster[1], 50)
        copy = cluster[3].state_dir + ".old"
        cluster[3].terminate()
        shutil.copytree(cluster[3].state_dir, copy)
        reply = cluster.set_nodes((1, 2, 3, 4))  # 3 is wanted and missing
        self.assertWord(reply, "NOTREADY")
        self.assertRegex(reply.text, r"(master|node) 3\b")
        cluster[3].start()
        self.assertEqual(cluster.set_nodes_at_last((1, 2, 3, 4)), b"OK")
        # And with the file that it had before.
        cluster[3].kill()
        shutil.rmtree(cluster[3].state_dir)
        shutil.copytree(copy, cluster[3].state_dir)
        cluster[3].start()
        agreed(cluster.nodes, (1, 2, 3, 4))
        cluster.wait_active()
        cluster[2].pause()
        with cluster[3].client() as client:
            eventually(lambda: not isinstance(client.cmd("LOCK", "k", "v", 1000), RespError),
                       "1, 3 and 4 are a quorum of four", 60)
        cluster[2].resume()
        cluster.wait_active()
        self.assertEqual(keeper.wrong(fourth), [])
        cluster.close()

    def test_masters_that_are_known_by_two_names(self):
        cluster = self.cluster_of()
        second = cluster[2]
        masters = cluster.masters(second)
        second.options["masters"] = re.sub(r"1=([\d.]+):", r"1=[::ffff:\1]:", masters)
        second.terminate()
        second.start()
        cluster.wait_active()
        with cluster[3].client() as client:
            self.assertEqual(
                client.cmd("SETNODES", "MASTERS", 1, 3).text,
                f"ERR node 2 knows node 1 by another address than {cluster[1].peer_address}: start "
                "every node with the same --masters first, one after the other")
            second.options["masters"] = masters
            second.terminate()
            second.start()
            cluster.wait_active()
            self.assertEqual(client.cmd("SETNODES", "MASTERS", 1, 3), b"OK")
        cluster.close()

    def test_an_even_number_is_served_with_a_warning(self):
        cluster = self.cluster_of()
        self.assertEqual(cluster.set_nodes((1, 2)), b"OK")
        self.assertRegex(cluster[1].log(), r"2 masters tolerate no more failures than 1")
        cluster.close()

    def test_one_master_grows_and_shrinks(self):
        cluster = self.cluster_of(1)
        keeper = Keeper(cluster[1], 50)
        cluster.add_node()
        cluster.add_node()
        for masters in ((1, 2, 3), (2,), (2, 1), (3,)):
            self.assertEqual(cluster.set_nodes_at_last(masters), b"OK", masters)
            agreed(cluster.nodes, sorted(masters))
            for node in cluster.nodes:
                self.assertEqual(keeper.wrong(node), [], masters)
        cluster.close()


class BadInput(Case):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(3, **OPTIONS)
        cls.fourth = cls.cluster.add_node()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def setUp(self):
        self.before = agreed(self.cluster.nodes, (1, 2, 3))

    def tearDown(self):
        self.assertEqual(agreed(self.cluster.nodes, (1, 2, 3)), self.before, "nothing changed")

    def test_words_that_make_no_configuration(self):
        many = [str(i) for i in range(1, 17)]
        with self.cluster[2].client() as client:
            for words, said in (
                    (["MASTERS", 1, 2, 3, 9], "node 9 is not known here"),
                    (["MASTERS", 1, 2, 3, "REPLICAS", 9], "node 9 is not known here"),
                    (["MASTERS", 1, 2, 1], "node 1 is named twice"),
                    (["MASTERS", 1, 2, 3, "REPLICAS", 3], "node 3 is named twice"),
                    (["MASTERS", 1, 2, 3, "REPLICAS", 4, 4], "node 4 is named twice"),
                    (["MASTERS", *many], "at most 15 masters"),
                    (["MASTERS", 1, "REPLICAS", *range(101, 118)], "at most 16 replicas"),
                    (["MASTERS", "REPLICAS", 1], "no master"),
                    (["MASTERS"], ""), ([], ""), (["NONSENSE", 1, 2], ""),
                    (["REPLICAS", 1], ""), (["MASTERS", 1, "MASTERS", 2], ""),
                    (["MASTERS", 0], ""), (["MASTERS", 256], ""), (["MASTERS", -1], ""),
                    (["MASTERS", "x"], ""), (["MASTERS", "1,2"], ""), (["MASTERS", ""], ""),
                    (["MASTERS", 1, 2, "3x"], ""), (["MASTERS", "9" * 30], "")):
                reply = client.cmd("SETNODES", *words)
                self.assertWord(reply, "ERR")
                self.assertIn(said, reply.text, words)

    def test_what_is_so_already(self):
        self.assertEqual(self.cluster.set_nodes((3, 2, 1)), b"OK")
        self.assertEqual(self.cluster.set_nodes((1, 2, 3), ()), b"OK")

    def test_a_node_that_answers_as_somebody_else(self):
        twin = Node(self.cluster, 3, join=self.cluster[1].peer_address)
        twin.log_path += ".twin"
        twin.state_dir += ".twin"
        twin.spawn()
        try:
            eventually(lambda: re.search(r"node 3\b.*(is|at|listed|linked|another)", twin.log()),
                       "the twin is told")
            self.assertEqual(self.row(self.cluster[1], self.cluster[3])[b"state"], b"active")
            self.assertEqual(self.row(self.cluster[1], self.cluster[3])[b"address"].decode(),
                             self.cluster[3].peer_address)
        finally:
            twin.kill()

    def test_constants_that_disagree(self):
        for option, value in (("slots", 128), ("max_lease", 1234), ("attempt_time", 321),
                              ("drift_ppm", 77)):
            node = Node(self.cluster, 9, join=self.cluster[1].peer_address)
            node.spawn(**{option: value})
            self.assertNotEqual(node.wait_exit(), 0, option)
            self.assertIn(f"--{option.replace('_', '-')} {value}", node.log())

    def test_flags_that_do_not_go_together(self):
        for words in ({"new_cluster": True}, {"masters": self.cluster.masters(self.fourth)}):
            node = Node(self.cluster, 9, join=self.cluster[1].peer_address)
            node.spawn(**words)
            self.assertNotEqual(node.wait_exit(), 0, words)
            self.assertIn("--join", node.log())

    def test_a_stranger_to_join_by(self):
        for address in (self.cluster[1].address, self.cluster[2].peer_address):
            node = Node(self.cluster, 9, join=address)
            node.spawn(cluster="another")
            try:
                eventually(lambda node=node: len(node.log().splitlines()) > 1, "it says why not")
                self.assertNotRegex(node.log(), r"\bready\b")
            finally:
                if node.running():
                    node.kill()
                node.process = None


class CommandLine(Case):
    def test_a_table_a_preview_and_a_change(self):
        cluster = self.cluster_of()
        cluster.add_node()
        where = cluster.addresses()
        status, out, err = locker("nodes", nodes=where)
        self.assertEqual((status, err), (DONE, b""))
        self.assertRegex(out, rb"(?m)^epoch 1, quorum 2 of 3 masters, 64 slots$")
        self.assertRegex(out, rb"(?m)^ *id +address +role +state +epoch +in sync +lag +since$")
        self.assertRegex(out, rb"(?m)^ *2 +[0-9.:]+ +master +active +1 +64/64 +- ")
        self.assertRegex(out, rb"(?m)^ *4 +[0-9.:]+ +nonmember +nonmember ")

        # Nobody to ask: nothing is done.
        status, out, err = locker("nodes", "set", "--masters", "1,2,3,4", nodes=where)
        self.assertEqual(status, USAGE)
        self.assertIn(b"--yes", err)
        self.assertRegex(out, rb"(?m)^ *1  add master 4 +quorum 3 of 4$")
        self.assertIn(b"warning: 4 masters tolerate no more failures than 3", out)
        agreed(cluster.nodes, (1, 2, 3))

        status, out, err = locker("nodes", "set", "--masters", "1,2,3", "--replicas", "4", "--yes",
                                  nodes=where)
        self.assertEqual((status, err), (DONE, b""))
        self.assertRegex(out, rb"(?m)^ *1  add replica 4 +quorum 2 of 3$")
        eventually(lambda: re.search(
            rb"(?m)^ *4 +[0-9.:]+ +replica +active +2 +64/64 +[0-9]+ m?s ",
            locker("nodes", nodes=where)[1]), "4 copies")
        status, out, err = locker("--json", "nodes", "set", "--masters", "1,2,4", "--yes",
                                  nodes=where)
        self.assertEqual((status, out.count(b"\n")), (DONE, 1), err)
        self.assertIn(b'{"outcome":"ok","reply":{"epoch":', out)
        self.assertIn(b"promote replica 4", err)

        status, out, err = locker("nodes", "set", "--masters", "1,2,9", "--yes", nodes=where)
        self.assertEqual(status, USAGE)
        self.assertIn(b"node 9 is not known here", err)
        self.assertIn(b"warning: node 9 is not known here", out)

        cluster[4].kill()
        eventually(lambda: b" down " in locker("nodes", nodes=where)[1], "4 is down")
        status, out, err = locker("nodes", "set", "--masters", "1,2,3,4", "--yes", nodes=where)
        self.assertEqual(status, UNSURE)
        self.assertIn(b"warning: node 4 is down", out)
        self.assertRegex(err, rb"^locker: NO(TREADY|QUORUM) ")
        self.assertIn(b"same command again", err)
        cluster.close()

    def test_on_a_terminal(self):
        cluster = self.cluster_of(1)
        cluster.add_node()
        cluster.add_node()
        words = ("--node", cluster[1].address, "nodes", "set", "--masters", "1,2,3")
        status, screen = on_terminal(b"n\n", *words)
        self.assertEqual(status, REFUSED)
        self.assertIn(b"go on? [y/N]", screen)
        agreed(cluster.nodes, (1,))
        status, screen = on_terminal(b"y\n", *words)
        self.assertEqual(status, DONE, screen)
        self.assertRegex(screen, rb"quorum 2 of 3 masters")
        agreed(cluster.nodes, (1, 2, 3))
        cluster.close()


if __name__ == "__main__":
    main()
