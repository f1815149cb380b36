"""Batches made ahead of the training step, by a thread or by worker processes, each from a seed of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Any, ...]
"""A tuple, named or not, of tensors and of tuples of tensors."""

Draw = Callable[[int], Batch]
"""Makes a batch from a seed: the same one from the same seed."""

DEPTH = 4
"""So many batches wait for the training step."""


def seed_of(*numbers: int) -> int:
    """Mix numbers into one seed of 32 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Steps(Dataset[Batch]):
    """The batches of one process of a run, by the number of their step."""

    def __init__(self, draw: Draw, seed: int, rank: int) -> None:
        self.draw, self.seed, self.rank = draw, seed, rank

    def __getitem__(self, step: int) -> Batch:
        return self.draw(seed_of(self.seed, self.rank, step))


class _Thread(threading.Thread):
    """Makes batches beside the training step; what goes wrong there is raised where the batch is taken."""

    def __init__(self, steps: Steps, places: range) -> None:
        super().__init__(daemon=True, name="batches")
        self._steps, self._places = steps, places
        self._queue: Queue[Batch | Exception] = Queue(DEPTH)
        self._stopped = threading.Event()

    def run(self) -> None:
        try:
            for place in self._places:
                if not self._put(self._steps[place]):
                    return
        except Exception as error:  # noqa: BLE001 - raised again by batches()
            self._put(error)

    def _put(self, item: Batch | Exception) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except Full:
                continue
            return True
        return False

    def batches(self) -> Iterator[Batch]:
        """Yield the batches in order."""
        for _ in self._places:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self) -> None:
        """Make no more batches."""
        self._stopped.set()
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            self.join()


@contextmanager
def prefetched(steps: Steps, places: range, workers: int = 0, *, pinned: bool = False) -> Iterator[Iterator[Batch]]:
    """Give the batches of some steps, in order, whoever makes them.

    Parameters
    ----------
    steps
        What makes the batch of a step.
    places
        The steps wanted.
    workers
        Processes that make batches; 0 makes them in a thread.
    pinned
        Put them where a GPU fetches them faster.
    """
    if not workers:
        thread = _Thread(steps, places)
        thread.start()
        try:
            yield thread.batches()
        finally:
            thread.stop()
        return
    # Forked, so that films are shared and not copied; workers never touch CUDA.
    yield iter(
        DataLoader(
            steps,
            batch_size=None,
            sampler=places,
            num_workers=workers,
            pin_memory=pinned,
            multiprocessing_context="fork",
        )
    )
