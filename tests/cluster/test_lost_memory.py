#!/usr/bin/env python3
"""Nodes that lose their state files, or get old ones, while the members change."""
import shutil
import unittest

from harness import Cluster, eventually, main
from load import agreed

OPTIONS = {"max_lease": 4000, "attempt_time": 500}


class LostMemory(unittest.TestCase):
    def cluster_of(self, n, **options):
        cluster = Cluster(n, **{**OPTIONS, **options})
        self.addCleanup(cluster.abandon)
        cluster.wait_active()
        return cluster

    def missed_its_removal(self, lost):
        """3 is removed and added again, and comes back without knowing of it: it begins to ask for
        what it may have forgotten, and then learns that it joins."""
        cluster = self.cluster_of(3, max_lease=60000)
        one, two, three = cluster.nodes
        self.assertEqual(three.terminate(), 0)
        shutil.copytree(three.state_dir, three.state_dir + ".old")
        three.start()
        cluster.wait_active()
        self.assertEqual(cluster.set_nodes_at_last((1, 2)), b"OK")
        self.assertEqual(cluster.set_nodes_at_last((1, 2, 3)), b"OK")
        three.kill()
        shutil.rmtree(three.state_dir)
        if not lost:
            shutil.copytree(three.state_dir + ".old", three.state_dir)
        one.pause()
        two.pause()
        three.spawn(new_cluster=False)
        eventually(lambda: "resync: asking" in three.log(), "it asks")
        one.resume()
        two.resume()
        # Long before the longest lease is over.
        eventually(lambda: "active: this node votes and is in sync" in three.log(), "it votes", 20)
        cluster.close()

    def test_a_file_is_lost_and_a_removal_missed(self):
        self.missed_its_removal(lost=True)

    def test_an_old_file_and_a_removal_missed(self):
        self.missed_its_removal(lost=False)

    def test_a_cluster_that_began_with_one_node(self):
        cluster = self.cluster_of(1)
        one, two, three = cluster[1], cluster.add_node(), cluster.add_node()
        self.assertEqual(cluster.set_nodes_at_last((1, 2, 3)), b"OK")
        one.kill()
        shutil.rmtree(one.state_dir)
        # On its own it would be a cluster of its own.
        one.spawn(new_cluster=False, masters=None)
        self.assertEqual(one.process.wait(10), 1)
        self.assertRegex(one.log(), r"nobody to ask.*--new-cluster.*--join HOST:PORT")
        one.process = None
        one.start(new_cluster=False, masters=None, join=two.peer_address)
        agreed([one, two, three], (1, 2, 3))
        cluster.wait_active()
        cluster.close()


if __name__ == "__main__":
    main()
