"""Transport: the upper layer of associations that others open to the node (PS3.8), made for objects of megabytes.

It takes the place of ``AE.start_server`` under pynetdicom's ``AE``. pynetdicom negotiates; once an association is
established, one thread reads its socket into one buffer and hands pieces of that buffer on: no queue, no copy, no
polling, and the memory does not grow with the object. decisions/0001-lean-receive-path.md has the figures.

    acceptor = Acceptor(ae, service, host="127.0.0.1", port=0, admit=..., end=...)
    acceptor.start()
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol

import structlog
from pynetdicom import AE

from dicom_node.dimse import BrokenCommand, Command, decode_command
from dicom_node.negotiate import TOO_MANY_ASSOCIATIONS, BrokenRequest, Context, Negotiator, Proposal, Rejection

log = structlog.get_logger(__name__)

_BUFFER_BYTES = 1 << 20
_LEAST_FREE_BYTES = 1 << 16  # less room than this is no room for a recv
_MAX_COMMAND_BYTES = 1 << 16
_MAX_ASSOCIATE_BYTES = 1 << 19  # 128 contexts with 30 syntaxes each are a quarter of that
_LINGER_S = 2.0  # how long the peer has to close after the last PDU (ARTIM timer of PS3.8 Sta13)
_WAITING_CONNECTIONS = 32  # above the limit on associations: to tell them so
_BACKLOG = 128
_RETRY_ACCEPT_S = 0.5

_PDU_HEADER = struct.Struct(">BxI")
_PDV_HEADER = struct.Struct(">IBB")
_RESPONSE_HEADER = struct.Struct(">BxIIBB")

_ASSOCIATE_RQ, _P_DATA_TF, _RELEASE_RQ, _ABORT = 0x01, 0x04, 0x05, 0x07
_KNOWN_PDU_TYPES = range(0x01, 0x08)
_RELEASE_RP_PDU = struct.pack(">BxIxxxx", 0x06, 4)
_COMMAND, _LAST = 0x01, 0x02  # bits of the message control header (PS3.8 annex E.2)


class AbortReason(IntEnum):
    """Why the upper layer aborts (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNISED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class ProtocolError(Exception):
    """The peer broke the protocol; the association is aborted."""

    def __init__(self, reason: AbortReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Ending(StrEnum):
    """How an association ended."""

    RELEASED = "released"
    ABORTED = "aborted"  # by the peer
    LOST = "lost"  # the connection broke
    SILENT = "silent"  # nothing came for longer than the network timeout
    BROKEN = "broken"  # the peer broke the protocol
    STOPPED = "stopped"  # the node stops
    FAILED = "failed"  # a fault of ours


@dataclass(frozen=True, slots=True)
class Association:
    """One established association, as the service sees it."""

    calling_ae: str
    called_ae: str
    contexts: Mapping[int, Context]
    host: str  # the peer's address
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Sink(Protocol):
    """Takes one data set, in pieces. It must not raise: what goes wrong is the response's to say."""

    def write(self, fragments: Sequence[memoryview]) -> None:
        """Take the next pieces. They are valid during the call only."""

    def finish(self) -> bytes:
        """Take note that the data set is whole; return the response's command set."""

    def discard(self) -> None:
        """Leave nothing behind: the rest will not come."""


class Service(Protocol):
    """What is done with messages."""

    def respond(self, association: Association, context: Context, command: Command) -> bytes:
        """Return the response to a request without a data set; empty for none."""

    def open(self, association: Association, context: Context, command: Command) -> Sink:
        """Return what takes the data set of a request."""


class _Buffer:
    """The bytes that have come and were not yet consumed, in one block of memory that is filled again and again."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        # Anonymous memory rather than a bytearray: what is never filled costs nothing, not even zeros.
        self.view = memoryview(mmap.mmap(-1, _BUFFER_BYTES))
        self.start = 0
        self.end = 0

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def has_room(self) -> bool:
        return _BUFFER_BYTES - self.end >= _LEAST_FREE_BYTES

    def rewind(self) -> None:
        """Make room. Pieces handed out before are no longer valid."""
        rest = self.end - self.start
        self.view[:rest] = self.view[self.start : self.end]
        self.start, self.end = 0, rest

    def fill(self) -> None:
        """Wait for more bytes."""
        count = self._connection.recv_into(self.view[self.end :])
        if not count:
            raise ConnectionResetError("The peer closed the connection.")
        self.end += count


@dataclass(frozen=True, slots=True)
class _Limits:
    """What bounds a conversation."""

    between_messages_s: float
    within_message_s: float
    stopping: threading.Event


class _Conversation:
    """Sta6 of PS3.8: reads messages and sends responses until the association ends.

    A message is a command, in one or more fragments, then, if it says so, a data set in fragments. Messages do not
    interleave: no asynchronous operations are negotiated.
    """

    def __init__(
        self,
        connection: socket.socket,
        buffer: _Buffer,
        association: Association,
        service: Service,
        limits: _Limits,
    ) -> None:
        self._connection = connection
        self._buffer = buffer
        self._limits = limits
        self._association = association
        self._service = service
        self._command = bytearray()  # of the message that is coming in
        self._context_id = 0  # of that message; 0 between messages
        self._sink: Sink | None = None  # of its data set
        self._pieces: list[memoryview] = []  # of its data set, in the buffer, not yet written
        self._pdu_rest = 0  # bytes to come of the current P-DATA-TF PDU

    def run(self) -> Ending:
        """Converse.

        Raises
        ------
        ProtocolError
            The peer broke the protocol.
        OSError
            The connection broke or fell silent.
        """
        try:
            while True:
                pdu_type, length = self._read_head()
                if pdu_type != _P_DATA_TF:
                    return self._end(pdu_type)
                self._pdu_rest = length
                while self._pdu_rest:
                    self._read_value()
        finally:
            if self._sink is not None:
                self._sink.discard()

    def _need(self, size: int) -> None:
        """Wait until at least ``size`` bytes are there, in one piece."""
        while self._buffer.size < size:
            if not self._buffer.has_room:
                self._flush()
                self._buffer.rewind()
            self._buffer.fill()

    def _flush(self) -> None:
        if self._pieces and self._sink is not None:
            self._sink.write(self._pieces)
        self._pieces.clear()

    def _read_head(self) -> tuple[int, int]:
        if self._limits.stopping.is_set():
            raise ConnectionAbortedError("The node stops.")
        self._need(_PDU_HEADER.size)
        head: tuple[int, int] = _PDU_HEADER.unpack_from(self._buffer.view, self._buffer.start)
        self._buffer.start += _PDU_HEADER.size
        return head

    def _end(self, pdu_type: int) -> Ending:
        if pdu_type == _ABORT:
            return Ending.ABORTED
        if pdu_type == _RELEASE_RQ and not self._context_id:
            return Ending.RELEASED
        known = pdu_type in _KNOWN_PDU_TYPES
        raise ProtocolError(AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNISED_PDU)

    def _read_value(self) -> None:
        """Read one presentation data value (PS3.8 section 9.3.5.1), or as much of it as the buffer holds at a time."""
        self._need(_PDV_HEADER.size)
        length, context_id, control = _PDV_HEADER.unpack_from(self._buffer.view, self._buffer.start)
        if length < 2 or length + 4 > self._pdu_rest:
            raise ProtocolError(AbortReason.INVALID_PARAMETER)
        self._buffer.start += _PDV_HEADER.size
        self._pdu_rest -= length + 4
        self._check_order(context_id, is_command=bool(control & _COMMAND))
        rest = length - 2
        while rest:
            rest -= self._take(rest, is_command=bool(control & _COMMAND))
        if control & _LAST:
            self._end_of_command() if control & _COMMAND else self._end_of_data_set()

    def _check_order(self, context_id: int, *, is_command: bool) -> None:
        """Check that a fragment belongs to the message that is coming in, or begins one."""
        if context_id not in self._association.contexts:
            raise ProtocolError(AbortReason.UNEXPECTED_PARAMETER)
        if self._context_id not in {0, context_id} or is_command != (self._sink is None):
            raise ProtocolError(AbortReason.INVALID_PARAMETER)
        if not self._context_id:
            _limit_waiting(self._connection, self._limits.within_message_s)
        self._context_id = context_id

    def _take(self, size: int, *, is_command: bool) -> int:
        """Take what is there of a fragment, waiting if nothing is; return how many bytes that was."""
        self._need(1)
        start = self._buffer.start
        count = min(size, self._buffer.end - start)
        piece = self._buffer.view[start : start + count]
        self._buffer.start += count
        if not is_command:
            self._pieces.append(piece)
        elif len(self._command) + count > _MAX_COMMAND_BYTES:
            raise ProtocolError(AbortReason.INVALID_PARAMETER)
        else:
            self._command += piece
        return count

    def _end_of_command(self) -> None:
        try:
            command = decode_command(self._command)
        except BrokenCommand:
            raise ProtocolError(AbortReason.INVALID_PARAMETER) from None
        self._command.clear()
        context = self._association.contexts[self._context_id]
        if command.has_data_set:
            self._sink = self._service.open(self._association, context, command)
        else:
            self._send(self._service.respond(self._association, context, command))

    def _end_of_data_set(self) -> None:
        assert self._sink is not None
        self._flush()
        response = self._sink.finish()
        self._sink = None
        self._send(response)

    def _send(self, response: bytes) -> None:
        """Send a response in one piece: with two, Nagle's algorithm would make the peer wait 40 ms."""
        context_id, self._context_id = self._context_id, 0
        if response:
            size = len(response) + 2
            head = _RESPONSE_HEADER.pack(_P_DATA_TF, size + 4, size, context_id, _COMMAND | _LAST)
            self._connection.sendall(head + response)
        _limit_waiting(self._connection, self._limits.between_messages_s)


class Acceptor:
    """Listens, and gives each association a thread.

    Parameters
    ----------
    ae
        Presentation contexts, maximum PDU size, timeouts and the limit on associations; not changed afterwards.
    service
        What is done with messages. Called from many threads.
    host, port
        Where to listen; port 0 has the system choose.
    admit
        Says whether who calls may come in: given what is proposed and the peer's address, returns None or why not.
    end
        Told of each association that was established, after it has ended.
    """

    def __init__(
        self,
        ae: AE,
        service: Service,
        *,
        host: str,
        port: int,
        admit: Callable[[Proposal, str], Rejection | None],
        end: Callable[[Association, Ending], None],
    ) -> None:
        self._negotiator = Negotiator(ae)
        self._service = service
        self._where = (host, port)
        self._admit = admit
        self._end = end
        self._limit: int = ae.maximum_associations
        self._request_timeout_s: float = ae.acse_timeout
        self._limits = _Limits(ae.network_timeout, ae.dimse_timeout, threading.Event())
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._listening: threading.Thread | None = None
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._established: set[str] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port actually bound.

        Raises
        ------
        RuntimeError
            It does not listen.
        """
        if self._listener is None:
            raise RuntimeError("The acceptor has not been started.")
        host, port = self._listener.getsockname()[:2]
        return host, port

    def start(self) -> None:
        """Listen. Associations are accepted once this returns.

        Raises
        ------
        OSError
            The address cannot be used.
        """
        family = socket.AF_INET6 if ":" in self._where[0] else socket.AF_INET
        self._listener = socket.create_server(self._where, family=family, backlog=_BACKLOG)
        self._limits.stopping.clear()
        self._listening = threading.Thread(target=self._listen, name="acceptor", daemon=True)
        self._listening.start()

    def stop(self, grace_s: float = 30.0) -> None:
        """Stop listening and abort the associations; one that is at an answer sends it first.

        Parameters
        ----------
        grace_s
            How long to wait for the associations' threads, all in all.
        """
        with self._lock:
            self._limits.stopping.set()
            connections = dict(self._connections)
            listener, self._listener = self._listener, None
        if listener is not None:
            _wake(listener)
            listener.close()
        for connection in connections:
            _wake(connection)
        until = time.monotonic() + grace_s
        for thread in (self._listening, *connections.values()):
            if thread is not None:
                thread.join(max(0.0, until - time.monotonic()))

    def _listen(self) -> None:
        listener = self._listener
        while listener is not None:
            try:
                connection, address = listener.accept()
            except OSError:
                if self._limits.stopping.is_set():
                    return
                log.exception("transport.accept-failed")  # such as no descriptors left: passes when associations end
                self._limits.stopping.wait(_RETRY_ACCEPT_S)
                continue
            self._spawn(connection, address[0])

    def _spawn(self, connection: socket.socket, host: str) -> None:
        thread = threading.Thread(target=self._serve, args=(connection, host), name="association", daemon=True)
        with self._lock:
            if self._limits.stopping.is_set() or len(self._connections) >= self._limit + _WAITING_CONNECTIONS:
                connection.close()
                return
            self._connections[connection] = thread
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads; there are others to serve
                log.exception("transport.no-thread", host=host)
                del self._connections[connection]
                connection.close()

    def _serve(self, connection: socket.socket, host: str) -> None:
        """Thread of one connection: everything that can go wrong with it ends here."""
        try:
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _limit_waiting(connection, self._request_timeout_s)
                self._associate(connection, host)
        except OSError as error:
            log.info("transport.connection-lost", host=host, kind=type(error).__name__)
        except Exception:  # the last boundary of a thread: a fault of ours must show, and end this connection only
            log.exception("transport.fault", host=host)
        finally:
            with self._lock:
                del self._connections[connection]

    def _associate(self, connection: socket.socket, host: str) -> None:
        """Sta2 and Sta3 of PS3.8: wait for a request, answer it, converse."""
        buffer = _Buffer(connection)
        try:
            proposal = self._negotiator.read(_read_request(buffer, self._request_timeout_s))
        except (ProtocolError, BrokenRequest) as error:
            reason = error.reason if isinstance(error, ProtocolError) else AbortReason.INVALID_PARAMETER
            log.warning("transport.no-association", host=host, reason=reason.name)
            _say(connection, _abort_pdu(reason))
            _linger(connection)
            return
        rejection = proposal.rejection or self._admit(proposal, host)
        association = Association(proposal.calling_ae, proposal.called_ae, proposal.contexts, host)
        if rejection is None:
            rejection = self._enter(association)
        if rejection is not None:
            log.warning("transport.rejected", peer=proposal.calling_ae, host=host, reason=rejection.name)
            _say(connection, rejection.encode())
            _linger(connection)
            return
        try:
            connection.sendall(proposal.acceptance)
        except OSError:
            self._leave(association)
            raise
        self._converse(connection, buffer, association)

    def _enter(self, association: Association) -> Rejection | None:
        with self._lock:
            if len(self._established) >= self._limit:
                return TOO_MANY_ASSOCIATIONS
            self._established.add(association.id)
        return None

    def _leave(self, association: Association) -> None:
        with self._lock:
            self._established.discard(association.id)

    def _converse(self, connection: socket.socket, buffer: _Buffer, association: Association) -> None:
        ending, farewell = Ending.FAILED, _abort_pdu(AbortReason.NOT_SPECIFIED)
        try:
            _limit_waiting(connection, self._limits.between_messages_s)
            conversation = _Conversation(connection, buffer, association, self._service, self._limits)
            ending = conversation.run()
            farewell = _RELEASE_RP_PDU if ending is Ending.RELEASED else b""
        except ProtocolError as error:
            ending, farewell = Ending.BROKEN, _abort_pdu(error.reason)
            log.warning("transport.protocol-error", peer=association.calling_ae, reason=error.reason.name)
        except OSError as error:
            ending = self._classify(error)
        finally:
            self._leave(association)  # before the peer knows, so that it finds room when it calls again
            _say(connection, farewell)
            self._end(association, ending)
        _linger(connection)

    def _classify(self, error: OSError) -> Ending:
        if self._limits.stopping.is_set():
            return Ending.STOPPED
        return Ending.SILENT if isinstance(error, BlockingIOError | TimeoutError) else Ending.LOST


def _read_request(buffer: _Buffer, timeout_s: float) -> bytes:
    """Read one A-ASSOCIATE-RQ PDU, header included. A peer that sends it byte by byte has not for ever either."""
    until = time.monotonic() + timeout_s
    _fill_until(buffer, _PDU_HEADER.size, until)
    size = _size_of_request(buffer)
    _fill_until(buffer, size, until)
    request = bytes(buffer.view[:size])
    buffer.start = size
    return request


def _fill_until(buffer: _Buffer, size: int, until: float) -> None:
    while buffer.size < size:
        if time.monotonic() > until:
            raise TimeoutError("The association request did not come in time.")
        buffer.fill()


def _size_of_request(buffer: _Buffer) -> int:
    pdu_type, length = _PDU_HEADER.unpack_from(buffer.view)
    if pdu_type != _ASSOCIATE_RQ:
        known = pdu_type in _KNOWN_PDU_TYPES
        raise ProtocolError(AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNISED_PDU)
    if not 0 < length <= _MAX_ASSOCIATE_BYTES:
        raise ProtocolError(AbortReason.INVALID_PARAMETER)
    return _PDU_HEADER.size + int(length)


def _abort_pdu(reason: AbortReason) -> bytes:
    """Encode an A-ABORT PDU of the service provider (PS3.8 section 9.3.8)."""
    return struct.pack(">BxIxxBB", _ABORT, 4, 2, reason)


def _say(connection: socket.socket, farewell: bytes) -> None:
    """Send the last PDU, if there is one to send and somebody to take it."""
    with contextlib.suppress(OSError):  # the peer is gone: nothing is left to say
        connection.sendall(farewell)
        if not farewell or farewell[0] == _ABORT:
            connection.shutdown(socket.SHUT_WR)


def _linger(connection: socket.socket) -> None:
    """Wait a little for the peer to close first, as Sta13 of PS3.8 has it.

    Closing at once, with bytes of the peer unread, would reset the connection and might lose the last PDU on its way;
    and some peers take a connection that is closed together with a rejection for a lost one.
    """
    until = time.monotonic() + _LINGER_S
    scrap = bytearray(_LEAST_FREE_BYTES)
    with contextlib.suppress(OSError):  # reset by the peer, or it did not close in time: closed anyway
        _limit_waiting(connection, _LINGER_S)
        while time.monotonic() < until and connection.recv_into(scrap):
            pass


def _limit_waiting(connection: socket.socket, seconds: float) -> None:
    """Limit how long one recv or send may wait.

    By the kernel: ``settimeout`` would put a poll before every recv.
    """
    limit = struct.pack("ll", *divmod(max(1, int(seconds * 1e6)), 1_000_000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _wake(endpoint: socket.socket) -> None:
    """Have a thread that waits on a socket go on."""
    with contextlib.suppress(OSError):  # closed by then, or never connected
        endpoint.shutdown(socket.SHUT_RD)
