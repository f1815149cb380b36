"""Ask a peer as an association requestor (PS3.8 section 7.1): as whom, how long to wait, what an answer means.

Whatever keeps a peer from being asked is one error, ``PeerUnreachable``: no association, no accepted context, a
failure, silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from pydicom import Dataset
from pynetdicom import AE

from dicom_node.errors import PeerUnreachable
from dicom_node.settings import ArchivePeer, DeliverSettings, NodeSettings, WorklistPeer

SLOW_S = 5.0  # one that fails sooner, such as a program that is being restarted, keeps nobody waiting
SPARED_S = 60.0
SUCCESS = 0x0000
PENDING = frozenset({0xFF00, 0xFF01})
"""A match comes with it (PS3.4 tables C.4-1 and K.4-1)."""


class Patience:
    """Spares a peer that has just kept a film waiting for nothing: the next ones would wait as long, two at a time.

    Parameters
    ----------
    whom
        The kind of peer, for messages.
    """

    def __init__(self, whom: str) -> None:
        self._whom = whom
        self._spared_until = 0.0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask the peer in the block, unless it is spared now.

        Raises
        ------
        PeerUnreachable
            It is spared, or what the block raised.
        """
        began = monotonic()
        if began < self._spared_until:
            raise PeerUnreachable(f"The {self._whom} has kept silent just now, and is not asked.")
        try:
            yield
        except PeerUnreachable:
            if monotonic() - began >= SLOW_S:
                self._spared_until = monotonic() + SPARED_S
            raise


def calling(node: NodeSettings, timeouts: DeliverSettings) -> AE:
    """Return the application entity this node calls as, which waits as long as the settings say."""
    ae = AE(node.ae_title)
    ae.connection_timeout = ae.acse_timeout = timeouts.connect_timeout_s
    ae.dimse_timeout = ae.network_timeout = timeouts.dimse_timeout_s
    return ae


@contextmanager
def associated(ae: AE, peer: ArchivePeer | WorklistPeer, **options: Any) -> Iterator[Any]:
    """Open an association for questions, and release it in the end; ``options`` are those of ``AE.associate``.

    Raises
    ------
    PeerUnreachable
        There is none.
    """
    assoc = ae.associate(peer.host, peer.port, ae_title=peer.ae_title, **options)
    if not assoc.is_established:
        raise PeerUnreachable(f"The {peer.kind} cannot be asked: there is no association.")
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def answers(whom: str, send: Callable[..., Any], *arguments: object) -> Iterator[tuple[int, Dataset | None]]:
    """Send a request and yield the answers' statuses with what comes with them.

    Parameters
    ----------
    whom
        The kind of peer, for messages.
    send
        A method of the association that sends, such as ``send_c_find``, followed by what it is called with.

    Raises
    ------
    PeerUnreachable
        No answer came, the peer takes no such request, or the association is gone.
    """
    try:
        for status, answer in send(*arguments):
            if "Status" not in status:
                raise PeerUnreachable(f"The {whom} did not answer: timed out or aborted.")
            yield int(status.Status), answer
    except (RuntimeError, ValueError) as error:
        # Without an accepted context, or when the association is gone.
        raise PeerUnreachable(f"The {whom} takes no queries from this node, or broke off.") from error


def matches(whom: str, assoc: Any, query: Dataset, model: str) -> Iterator[Dataset | None]:
    """Send a C-FIND and yield what matches; None stands for a match that cannot be read.

    Raises
    ------
    PeerUnreachable
        The peer does not answer, or answers with a failure.
    """
    for status, match in answers(whom, assoc.send_c_find, query, model):
        if status in PENDING:
            yield match
        elif status != SUCCESS:
            raise PeerUnreachable(f"The {whom} did not answer a query: status 0x{status:04X}.")
