#!/usr/bin/env python3
"""Five nodes, each in a network namespace of its own, with packet filters between them: cuts and
losses that TCP itself has to live with, in campaigns and in the middle of a change of the masters.
Skipped, with the reason, where namespaces are not to be had; netns.py tells what it takes."""
import campaign
import netns
import networks
from harness import RespError, as_map, background, eventually, main
from load import OPTIONS, Keeper, Load, agreed
from nemesis import between
from test_nemesis import SECONDS, Case, fresh_seed, say

WHY_NOT = None


class Namespaces(Case):
    def setUp(self):
        if WHY_NOT:
            self.skipTest(WHY_NOT)

    def test_a_fresh_seed(self):
        self.judged(campaign.Campaign(fresh_seed(), SECONDS, 5, "netns", say))


class Changes(Case):
    """A partition in the middle of a change of the masters."""

    def setUp(self):
        if WHY_NOT:
            self.skipTest(WHY_NOT)
        self.cluster = networks.make("netns", 3, 1, **OPTIONS)
        self.addCleanup(self.cluster.abandon)
        self.cluster.start()
        self.cluster.add_node()
        self.cluster.add_node()
        self.keeper = Keeper(self.cluster[1])
        self.load = Load(self.cluster, host=netns.Namespaces.host(netns.HUB))
        self.addCleanup(self.load.close)
        self.load.begin()

    def epoch(self, node):
        with node.client() as client:
            return as_map(client.cmd("NODES"))[b"epoch"]

    def cut_during_growth(self, pairs):
        """Cut @pairs once the first step from three to five masters is done, by node 2."""
        cluster = self.cluster
        join = background(lambda: cluster.set_nodes((1, 2, 3, 4, 5), by=cluster[2]))
        eventually(lambda: self.epoch(cluster[2]) > 1, "the first step is done", pause=0)
        cluster.cut(pairs, "drop")
        reply = join(200)
        say(f"  cut off by {pairs}: {reply!r}")
        if reply != b"OK":
            self.assertIn(reply.word, ("BUSY", "NOTREADY", "NOQUORUM"), reply.text)
        return reply

    def healed(self):
        cluster = self.cluster
        cluster.heal()
        self.assertEqual(self.load.during("the same again, healed", cluster.set_nodes_at_last,
                                          (1, 2, 3, 4, 5), by=cluster[3]), b"OK")
        agreed(cluster.nodes, (1, 2, 3, 4, 5))
        cluster.wait_active(60)
        self.load.more()
        self.assertEqual(self.load.judged(), [])
        for node in cluster[2], cluster[5]:
            self.assertEqual(self.keeper.wrong(node), [])
        cluster.close()

    def test_the_node_that_makes_it_is_cut_off(self):
        self.assertIsInstance(self.cut_during_growth(between((2,), (1, 3, 4, 5))), RespError)
        self.load.more()  # the others are a majority and go on
        self.healed()

    def test_the_new_nodes_are_cut_off_from_two(self):
        self.cut_during_growth(between((1, 2), (4, 5)))
        self.healed()

    def test_halves(self):
        self.cut_during_growth(between((1, 2), (3, 4, 5)))
        self.healed()


if __name__ == "__main__":
    if not netns.inside():
        WHY_NOT = netns.why_not()
        if WHY_NOT is None:
            netns.enter()
    main()
