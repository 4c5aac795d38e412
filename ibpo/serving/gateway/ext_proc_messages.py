"""The messages of Envoy's external processing (`envoy.service.ext_proc.v3`), as far as the gateway needs them.

Names and numbers are those of Envoy's API (envoyproxy/envoy, api/envoy/service/ext_proc/v3/external_processor.proto and
what it imports, v1.40). They are built here, because the package that holds them all, `xds-protos`, also owns the
top-level names `google`, `envoy` and `opentelemetry` and breaks others that do. On the wire only the numbers count, so
the messages have a package name of their own; fields that are not listed are skipped, as protobuf does. A test compares
them with `xds-protos` where that is installed.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
PACKAGE = "ibpo.ext_proc"
ENUMS = {
    "HeaderSendMode": {"DEFAULT": 0, "SEND": 1, "SKIP": 2},
    "BodySendMode": {"NONE": 0, "STREAMED": 1, "BUFFERED": 2, "BUFFERED_PARTIAL": 3, "FULL_DUPLEX_STREAMED": 4},
    "HeaderAppendAction": {"APPEND_IF_EXISTS_OR_ADD": 0, "ADD_IF_ABSENT": 1, "OVERWRITE_IF_EXISTS_OR_ADD": 2},
}
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
    "HeaderMap": {"headers": (1, "repeated HeaderValue")},
    "HeaderValueOption": {"header": (1, "HeaderValue"), "append_action": (3, "HeaderAppendAction")},
    "HeaderMutation": {"set_headers": (1, "repeated HeaderValueOption"), "remove_headers": (2, "repeated string")},
    "HttpHeaders": {"headers": (1, "HeaderMap"), "end_of_stream": (3, "bool")},
    "HttpBody": {"body": (1, "bytes"), "end_of_stream": (2, "bool")},
    "HttpTrailers": {"trailers": (1, "HeaderMap")},
    # One of the six is set: `request`.
    "ProcessingRequest": {
        "request_headers": (2, "request HttpHeaders"),
        "response_headers": (3, "request HttpHeaders"),
        "request_body": (4, "request HttpBody"),
        "response_body": (5, "request HttpBody"),
        "request_trailers": (6, "request HttpTrailers"),
        "response_trailers": (7, "request HttpTrailers"),
        "attributes": (9, "map google.protobuf.Struct"),
    },
    "BodyMutation": {"body": (1, "mutation bytes"), "clear_body": (2, "mutation bool")},
    "CommonResponse": {"header_mutation": (2, "HeaderMutation"), "body_mutation": (3, "BodyMutation")},
    "HeadersResponse": {"response": (1, "CommonResponse")},
    "BodyResponse": {"response": (1, "CommonResponse")},
    "TrailersResponse": {"header_mutation": (1, "HeaderMutation")},
    "HttpStatus": {"code": (1, "int32")},  # an enum of Envoy's whose values are the codes themselves
    "ImmediateResponse": {
        "status": (1, "HttpStatus"),
        "headers": (2, "HeaderMutation"),
        "body": (3, "bytes"),
        "details": (5, "string"),
    },
    "ProcessingMode": {
        "request_header_mode": (1, "HeaderSendMode"),
        "response_header_mode": (2, "HeaderSendMode"),
        "request_body_mode": (3, "BodySendMode"),
        "response_body_mode": (4, "BodySendMode"),
        "request_trailer_mode": (5, "HeaderSendMode"),
        "response_trailer_mode": (6, "HeaderSendMode"),
    },
    "ProcessingResponse": {
        "request_headers": (1, "response HeadersResponse"),
        "response_headers": (2, "response HeadersResponse"),
        "request_body": (3, "response BodyResponse"),
        "response_body": (4, "response BodyResponse"),
        "request_trailers": (5, "response TrailersResponse"),
        "response_trailers": (6, "response TrailersResponse"),
        "immediate_response": (7, "response ImmediateResponse"),
        "mode_override": (9, "ProcessingMode"),
    },
}
"""Message -> field -> (number, type). Before the type: `repeated`, `map` (from texts), or the oneof that it is in."""
_SCALARS = {"string": 9, "bytes": 12, "bool": 8, "int32": 5}
_ENUM, _MESSAGE, _OPTIONAL, _REPEATED = 14, 11, 1, 3


def _build_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="ibpo/ext_proc.proto", package=PACKAGE, syntax="proto3")
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=f"{name}_{value}", number=number)  # names of values share one space
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, written) in fields.items():
            how, _, kind = written.rpartition(" ")
            label = _REPEATED if how in ("repeated", "map") else _OPTIONAL
            row: Any = message.field.add(name=field, number=number, label=label)
            if how == "map":
                entry = message.nested_type.add(name=f"{field.title()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=_OPTIONAL, type=_SCALARS["string"])
                entry.field.add(name="value", number=2, label=_OPTIONAL, type=_MESSAGE, type_name=f".{kind}")
                row.type, row.type_name = _MESSAGE, f".{PACKAGE}.{name}.{entry.name}"
                continue
            if how not in ("", "repeated"):
                if not any(oneof.name == how for oneof in message.oneof_decl):
                    message.oneof_decl.add(name=how)
                row.oneof_index = 0
            if kind in _SCALARS:
                row.type = _SCALARS[kind]
            else:
                row.type = _ENUM if kind in ENUMS else _MESSAGE
                row.type_name = f".{PACKAGE}.{kind}"
    return file


def _build_classes() -> dict[str, Any]:
    """The classes, by name: plain protobuf messages."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    file = _build_file()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


_CLASSES = _build_classes()
ProcessingRequest: Any = _CLASSES["ProcessingRequest"]
ProcessingResponse: Any = _CLASSES["ProcessingResponse"]
