"""Where a run computes: its device, its precision, and the processes that share it under ``torchrun``.

Seeds and their limits: on a CPU, a run with one seed, one number of threads and one version of torch gives the same
weights bit for bit, also when it was interrupted and resumed. On CUDA the films, their order and their augmentation are
the same, too, but cuDNN and atomic additions sum in another order each time, so that weights drift apart slowly;
``--deterministic`` takes the operations that have a repeatable form in that form, and warns of those that have none.
With another number of processes the draws are others.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from shutil import disk_usage

import torch
from torch import distributed

from training.errors import RunError

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where worker processes leave batches
_LEAST_SHARED_BYTES = 1 << 30
_ALGORITHMS = 4
"""cuDNN tries so many for every convolution; trying all takes half a minute whenever shapes change."""
_PATIENCE = timedelta(hours=2)
"""The others wait so long while the leading process locates hands or validates."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Of glibc's ``mallopt`` (malloc.h)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One process of a run: its device, its place among the processes and how many there are."""

    device: torch.device
    rank: int = 0
    processes: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and validates."""
        return self.rank == 0

    def half_precision_pays(self) -> bool:
        """Whether bfloat16 is multiplied faster than float32 here: CUDA from Ampere on, a CPU with AMX.

        AVX-512 BF16 alone is not enough: on such a CPU recipes took 1.1 to 12 times as long in bfloat16.
        """
        if self.device.type == "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - no public way to ask

    def share(self, batch: int) -> int:
        """Return this process's part of a batch, which a recipe gives for all processes together.

        Raises
        ------
        RunError
            If the batch cannot be divided evenly.
        """
        if batch % self.processes:
            raise RunError(
                f"A batch of {batch} films cannot be shared by {self.processes} processes; start a number of them "
                "that divides it, or change the recipe's batch."
            )
        return batch // self.processes

    def describe(self) -> str:
        """Return the device's name, for the run's records."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def agree(self, answer: bool) -> bool:
        """Wait for all processes and return the leading one's answer."""
        if self.processes == 1:
            return answer
        told = torch.tensor([answer], dtype=torch.int32, device=self.device)
        distributed.broadcast(told, src=0)
        return bool(told.item())

    def workers(self) -> int:
        """Return how many processes should make batches: none on a CPU, whose cores train, most cores on CUDA.

        Workers hand batches over in shared memory; where it is small (containers), a thread makes them instead.
        """
        if self.device.type != "cuda" or not _SHARED_MEMORY.is_dir():
            return 0
        if disk_usage(_SHARED_MEMORY).free < _LEAST_SHARED_BYTES:
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(12, (cores - 1) // self.processes))


ALONE = Machine(torch.device("cpu"))
"""One process on the CPU."""


def is_leading() -> bool:
    """Whether this is the only process or torchrun's first, before it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RunError("CUDA was asked for, but torch finds no CUDA device; take --device cpu or auto.")
    if wanted != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


def keep_memory() -> bool:
    """Let this process keep the memory it frees, for the maps of its next step; returns whether it can.

    glibc takes a block of above 32 MB from the system each time, which clears it page by page, and gives it back: on
    two cores that was a third of a step of ``house`` at 32 hands. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def join(device: str = "auto", *, deterministic: bool = False) -> Iterator[Machine]:
    """Take part in a run, alone or as one of ``torchrun``'s processes, which find each other by their environment.

    Parameters
    ----------
    device
        One of ``training.arguments.DEVICES``; with several processes on CUDA, each takes the GPU of its local rank.
    deterministic
        Ask torch for operations that repeat themselves, at some cost of speed.

    Raises
    ------
    RunError
        If CUDA is asked for and there is none.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cpu":
        keep_memory()
    with _repeatable(deterministic):
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
            torch.backends.cudnn.benchmark = not deterministic
            torch.backends.cudnn.benchmark_limit = _ALGORITHMS
        if processes == 1:
            yield Machine(chosen)
            return
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
        try:
            yield Machine(chosen, distributed.get_rank(), processes)
            distributed.barrier()  # without it gloo aborted the last process in one of three runs
        finally:
            distributed.destroy_process_group()


@contextmanager
def _repeatable(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself with this alone
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
