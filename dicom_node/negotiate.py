"""Negotiate: the answer to an A-ASSOCIATE-RQ, by pynetdicom (PS3.8 sections 7.1 and 9.3.2 to 9.3.4).

The answer depends on the request's bytes and on the AE alone, and a device sends the same request for every
association: answers are kept, so that only the first of a kind costs milliseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pynetdicom import AE
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import negotiate_as_acceptor

_APPLICATION_CONTEXT_NAME = "1.2.840.10008.3.1.1.1"  # PS3.7 annex A.2.1
_PROTOCOL_VERSION_1 = 0x0001
_KEPT_ANSWERS = 64
_TITLES = slice(10, 42)
"""Called and calling AE title (PS3.8 table 9-11); old devices pad them with NUL instead of blanks."""


class BrokenRequest(ValueError):
    """The bytes are no A-ASSOCIATE-RQ."""


@dataclass(frozen=True, slots=True)
class Context:
    """One accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an association is rejected (PS3.8 table 9-21)."""

    result: int  # 1 permanent, 2 transient
    source: int  # 1 service user, 2 service provider (ACSE), 3 service provider (presentation)
    reason: int
    name: str

    def encode(self) -> bytes:
        """Encode the A-ASSOCIATE-RJ PDU (PS3.8 section 9.3.4)."""
        return struct.pack(">BxIxBBB", 0x03, 4, self.result, self.source, self.reason)


APPLICATION_CONTEXT_UNSUPPORTED = Rejection(1, 1, 2, "application context name not supported")
CALLING_AE_UNKNOWN = Rejection(1, 1, 3, "calling AE title not recognised")
CALLED_AE_UNKNOWN = Rejection(1, 1, 7, "called AE title not recognised")
PROTOCOL_UNSUPPORTED = Rejection(1, 2, 2, "protocol version not supported")
TOO_MANY_ASSOCIATIONS = Rejection(2, 3, 2, "local limit exceeded")


@dataclass(frozen=True, slots=True)
class Proposal:
    """An association request, and the answer to it should it be accepted."""

    calling_ae: str
    called_ae: str
    contexts: Mapping[int, Context]  # accepted ones, by presentation context id
    acceptance: bytes  # the A-ASSOCIATE-AC PDU
    rejection: Rejection | None  # not None: it cannot be accepted, whoever calls


class Negotiator:
    """Answers association requests for one AE.

    Parameters
    ----------
    ae
        Supported presentation contexts, maximum PDU size and implementation. Not changed afterwards.
    """

    def __init__(self, ae: AE) -> None:
        self._contexts = ae.supported_contexts
        self._maximum_pdu_size: int = ae.maximum_pdu_size
        self._implementation = (ae.implementation_class_uid, ae.implementation_version_name)
        self.read = lru_cache(maxsize=_KEPT_ANSWERS)(self._read)

    def _read(self, pdu: bytes) -> Proposal:
        """Read an A-ASSOCIATE-RQ PDU, header included, and prepare the answer.

        Raises
        ------
        BrokenRequest
            It does not parse.
        """
        try:
            return self._answer(pdu)
        except Exception as error:  # noqa: BLE001 - a stranger's bytes in parsers that raise whatever they stumble on
            raise BrokenRequest(f"The association request does not parse ({type(error).__name__}).") from None

    def _answer(self, pdu: bytes) -> Proposal:
        decoded = A_ASSOCIATE_RQ()
        decoded.decode(pdu[: _TITLES.start] + pdu[_TITLES].replace(b"\0", b" ") + pdu[_TITLES.stop :])
        request = decoded.to_primitive()
        roles = {
            item.sop_class_uid: (item.scu_role, item.scp_role)
            for item in request.user_information
            if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
        }
        proposed = request.presentation_context_definition_list
        results, reply_roles = negotiate_as_acceptor(proposed, self._contexts, roles)
        return Proposal(
            calling_ae=str(request.calling_ae_title).strip(),
            called_ae=str(request.called_ae_title).strip(),
            contexts={
                result.context_id: Context(str(result.abstract_syntax), str(result.transfer_syntax[0]))
                for result in results
                if result.result == 0
            },
            acceptance=self._accept(request, results, reply_roles),
            rejection=_unacceptable(request, decoded.protocol_version),
        )

    def _accept(self, request: A_ASSOCIATE, results: object, reply_roles: list[object]) -> bytes:
        answer = A_ASSOCIATE()
        answer.application_context_name = _APPLICATION_CONTEXT_NAME
        answer.calling_ae_title = request.calling_ae_title
        answer.called_ae_title = request.called_ae_title
        answer.result = 0
        answer.result_source = 1
        answer.presentation_context_definition_results_list = results
        answer.user_information = [*self._user_information(), *reply_roles]
        pdu = A_ASSOCIATE_AC()
        pdu.from_primitive(answer)
        return bytes(pdu.encode())

    def _user_information(self) -> list[object]:
        maximum_length = MaximumLengthNotification()
        maximum_length.maximum_length_received = self._maximum_pdu_size
        class_uid = ImplementationClassUIDNotification()
        class_uid.implementation_class_uid = self._implementation[0]
        version_name = ImplementationVersionNameNotification()
        version_name.implementation_version_name = self._implementation[1]
        return [maximum_length, class_uid, version_name]


def _unacceptable(request: A_ASSOCIATE, protocol_version: int) -> Rejection | None:
    if not protocol_version & _PROTOCOL_VERSION_1:
        return PROTOCOL_UNSUPPORTED
    if request.application_context_name != _APPLICATION_CONTEXT_NAME:
        return APPLICATION_CONTEXT_UNSUPPORTED
    return None
