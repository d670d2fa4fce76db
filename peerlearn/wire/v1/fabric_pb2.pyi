from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Protocol(_message.Message):
    __slots__ = ("major", "minor")
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    major: int
    minor: int
    def __init__(self, major: _Optional[int] = ..., minor: _Optional[int] = ...) -> None: ...

class Address(_message.Message):
    __slots__ = ("host", "port")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "kind", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class PublicSet(_message.Message):
    __slots__ = ("name", "fingerprint", "length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    length: int
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., length: _Optional[int] = ...) -> None: ...

class Card(_message.Message):
    __slots__ = ("id", "name", "session", "serial", "group_tag", "protocol", "software", "addresses", "task", "classes", "histogram", "architecture", "start", "layers", "strategy", "exposes", "public_sets", "version", "learns_from", "metrics", "certificate_sha256")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    GROUP_TAG_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    EXPOSES_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_SETS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEARNS_FROM_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    session: str
    serial: int
    group_tag: str
    protocol: Protocol
    software: str
    addresses: _containers.RepeatedCompositeFieldContainer[Address]
    task: str
    classes: int
    histogram: _containers.RepeatedScalarFieldContainer[int]
    architecture: str
    start: str
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    strategy: str
    exposes: _containers.RepeatedScalarFieldContainer[str]
    public_sets: _containers.RepeatedCompositeFieldContainer[PublicSet]
    version: int
    learns_from: _containers.RepeatedScalarFieldContainer[str]
    metrics: _containers.ScalarMap[str, float]
    certificate_sha256: bytes
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., session: _Optional[str] = ..., serial: _Optional[int] = ..., group_tag: _Optional[str] = ..., protocol: _Optional[_Union[Protocol, _Mapping]] = ..., software: _Optional[str] = ..., addresses: _Optional[_Iterable[_Union[Address, _Mapping]]] = ..., task: _Optional[str] = ..., classes: _Optional[int] = ..., histogram: _Optional[_Iterable[int]] = ..., architecture: _Optional[str] = ..., start: _Optional[str] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., strategy: _Optional[str] = ..., exposes: _Optional[_Iterable[str]] = ..., public_sets: _Optional[_Iterable[_Union[PublicSet, _Mapping]]] = ..., version: _Optional[int] = ..., learns_from: _Optional[_Iterable[str]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., certificate_sha256: _Optional[bytes] = ...) -> None: ...

class SignedCard(_message.Message):
    __slots__ = ("card", "public_key", "signature", "certificates")
    CARD_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    card: bytes
    public_key: bytes
    signature: bytes
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, card: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificates: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Revocations(_message.Message):
    __slots__ = ("group", "serial", "certificates", "peers")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    group: str
    serial: int
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    peers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, group: _Optional[str] = ..., serial: _Optional[int] = ..., certificates: _Optional[_Iterable[bytes]] = ..., peers: _Optional[_Iterable[str]] = ...) -> None: ...

class SignedRevocations(_message.Message):
    __slots__ = ("list", "signature", "links")
    LIST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    list: bytes
    signature: bytes
    links: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, list: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., links: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Acquaintance(_message.Message):
    __slots__ = ("id", "addresses")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    id: str
    addresses: _containers.RepeatedCompositeFieldContainer[Address]
    def __init__(self, id: _Optional[str] = ..., addresses: _Optional[_Iterable[_Union[Address, _Mapping]]] = ...) -> None: ...

class Introduction(_message.Message):
    __slots__ = ("protocol", "group_tag", "card", "observed", "known", "revocations", "check")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    GROUP_TAG_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    protocol: Protocol
    group_tag: str
    card: SignedCard
    observed: str
    known: _containers.RepeatedCompositeFieldContainer[Acquaintance]
    revocations: SignedRevocations
    check: int
    def __init__(self, protocol: _Optional[_Union[Protocol, _Mapping]] = ..., group_tag: _Optional[str] = ..., card: _Optional[_Union[SignedCard, _Mapping]] = ..., observed: _Optional[str] = ..., known: _Optional[_Iterable[_Union[Acquaintance, _Mapping]]] = ..., revocations: _Optional[_Union[SignedRevocations, _Mapping]] = ..., check: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("id", "session", "tells", "notice", "check")
    ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TELLS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    id: str
    session: str
    tells: bool
    notice: Notice
    check: int
    def __init__(self, id: _Optional[str] = ..., session: _Optional[str] = ..., tells: bool = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., check: _Optional[int] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("count", "version")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    count: int
    version: int
    def __init__(self, count: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("beat", "version", "card", "goodbye", "revocations", "complaint", "check")
    BEAT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    COMPLAINT_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    beat: Beat
    version: int
    card: SignedCard
    goodbye: Goodbye
    revocations: SignedRevocations
    complaint: str
    check: int
    def __init__(self, beat: _Optional[_Union[Beat, _Mapping]] = ..., version: _Optional[int] = ..., card: _Optional[_Union[SignedCard, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., revocations: _Optional[_Union[SignedRevocations, _Mapping]] = ..., complaint: _Optional[str] = ..., check: _Optional[int] = ...) -> None: ...

class TensorHeader(_message.Message):
    __slots__ = ("name", "dtype", "shape", "encoding", "stored", "cast_from", "scale", "digest", "base")
    class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DENSE: _ClassVar[TensorHeader.Encoding]
        BITMAP: _ClassVar[TensorHeader.Encoding]
        INDEX: _ClassVar[TensorHeader.Encoding]
    DENSE: TensorHeader.Encoding
    BITMAP: TensorHeader.Encoding
    INDEX: TensorHeader.Encoding
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    CAST_FROM_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    encoding: TensorHeader.Encoding
    stored: int
    cast_from: str
    scale: float
    digest: bytes
    base: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., encoding: _Optional[_Union[TensorHeader.Encoding, str]] = ..., stored: _Optional[int] = ..., cast_from: _Optional[str] = ..., scale: _Optional[float] = ..., digest: _Optional[bytes] = ..., base: _Optional[bytes] = ...) -> None: ...

class Params(_message.Message):
    __slots__ = ("architecture", "member")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    member: int
    def __init__(self, architecture: _Optional[str] = ..., member: _Optional[int] = ...) -> None: ...

class Outputs(_message.Message):
    __slots__ = ("dataset", "fingerprint")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    fingerprint: str
    def __init__(self, dataset: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class Knowledge(_message.Message):
    __slots__ = ("version", "params", "outputs")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    params: Params
    outputs: Outputs
    def __init__(self, version: _Optional[int] = ..., params: _Optional[_Union[Params, _Mapping]] = ..., outputs: _Optional[_Union[Outputs, _Mapping]] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("want", "select", "have", "have_session", "at", "cast", "held", "top", "resume")
    WANT_FIELD_NUMBER: _ClassVar[int]
    SELECT_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    HAVE_SESSION_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    CAST_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    want: str
    select: bytes
    have: int
    have_session: str
    at: int
    cast: str
    held: bytes
    top: float
    resume: Resume
    def __init__(self, want: _Optional[str] = ..., select: _Optional[bytes] = ..., have: _Optional[int] = ..., have_session: _Optional[str] = ..., at: _Optional[int] = ..., cast: _Optional[str] = ..., held: _Optional[bytes] = ..., top: _Optional[float] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("answer", "at")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    answer: bytes
    at: int
    def __init__(self, answer: _Optional[bytes] = ..., at: _Optional[int] = ...) -> None: ...

class NotModified(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    detail: str
    def __init__(self, reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("protocol", "sender", "session", "strategy", "query", "not_modified", "refusal", "knowledge", "tensors", "body_bytes", "answer", "resumed_at")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    NOT_MODIFIED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    RESUMED_AT_FIELD_NUMBER: _ClassVar[int]
    protocol: Protocol
    sender: str
    session: str
    strategy: str
    query: Query
    not_modified: NotModified
    refusal: Refusal
    knowledge: Knowledge
    tensors: _containers.RepeatedCompositeFieldContainer[TensorHeader]
    body_bytes: int
    answer: bytes
    resumed_at: int
    def __init__(self, protocol: _Optional[_Union[Protocol, _Mapping]] = ..., sender: _Optional[str] = ..., session: _Optional[str] = ..., strategy: _Optional[str] = ..., query: _Optional[_Union[Query, _Mapping]] = ..., not_modified: _Optional[_Union[NotModified, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., knowledge: _Optional[_Union[Knowledge, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[TensorHeader, _Mapping]]] = ..., body_bytes: _Optional[int] = ..., answer: _Optional[bytes] = ..., resumed_at: _Optional[int] = ...) -> None: ...

class Proceed(_message.Message):
    __slots__ = ("protocol", "answer")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    protocol: Protocol
    answer: bytes
    def __init__(self, protocol: _Optional[_Union[Protocol, _Mapping]] = ..., answer: _Optional[bytes] = ...) -> None: ...

class Packed(_message.Message):
    __slots__ = ("codec", "raw_bytes", "data")
    class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Packed.Codec]
        LZ4: _ClassVar[Packed.Codec]
        SHUFFLE2_LZ4: _ClassVar[Packed.Codec]
        SHUFFLE4_LZ4: _ClassVar[Packed.Codec]
        SHUFFLE8_LZ4: _ClassVar[Packed.Codec]
        MASK2: _ClassVar[Packed.Codec]
        MASK4: _ClassVar[Packed.Codec]
        MASK8: _ClassVar[Packed.Codec]
    UNKNOWN: Packed.Codec
    LZ4: Packed.Codec
    SHUFFLE2_LZ4: Packed.Codec
    SHUFFLE4_LZ4: Packed.Codec
    SHUFFLE8_LZ4: Packed.Codec
    MASK2: Packed.Codec
    MASK4: Packed.Codec
    MASK8: Packed.Codec
    CODEC_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    codec: Packed.Codec
    raw_bytes: int
    data: bytes
    def __init__(self, codec: _Optional[_Union[Packed.Codec, str]] = ..., raw_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Trailer(_message.Message):
    __slots__ = ("checksum",)
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    checksum: int
    def __init__(self, checksum: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("header", "proceed", "block", "packed", "trailer", "whole", "check")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PROCEED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    header: Header
    proceed: Proceed
    block: bytes
    packed: Packed
    trailer: Trailer
    whole: bytes
    check: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., proceed: _Optional[_Union[Proceed, _Mapping]] = ..., block: _Optional[bytes] = ..., packed: _Optional[_Union[Packed, _Mapping]] = ..., trailer: _Optional[_Union[Trailer, _Mapping]] = ..., whole: _Optional[bytes] = ..., check: _Optional[int] = ...) -> None: ...
