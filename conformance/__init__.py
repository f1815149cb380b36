"""Judging the node from outside: benchmarks beside other receivers, and checks with peers."""
