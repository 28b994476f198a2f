"""What schemathesis cannot read from the document, and the count of what it sent.

The requests are of its making. Here are a supply of real modules and of a real position, the few answers to a
well-formed request that hang on what no schema tells, and the protection of the key that it all is sent with.
"""

import atexit
import collections
import json
import os
import pathlib

import schemathesis
from hypothesis import strategies as st

MODULES = [file.read_bytes() for file in sorted(pathlib.Path(os.environ["WASMWIZ_CONTRACT_MODULES"]).iterdir())]
POSITION = os.environ["WASMWIZ_CONTRACT_POSITION"]
PROTECTED = set(json.loads(os.environ["WASMWIZ_CONTRACT_PROTECTED"]))
REPORT = os.environ["WASMWIZ_CONTRACT_REPORT"]

bodies = st.one_of(st.sampled_from(MODULES), st.sampled_from(MODULES), st.binary(min_size=1, max_size=64))
schemathesis.openapi.media_type("application/wasm", bodies)
schemathesis.openapi.media_type("application/octet-stream", bodies)
schemathesis.openapi.format("position", st.just(POSITION))
schemathesis.openapi.format("entity-tag", st.sampled_from(["*", '"1"', '"17"', '"x"', 'W/"1"', '""']))
schemathesis.openapi.format("cursor", st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"))


@schemathesis.hook
def before_call(context, case, kwargs):
    """Leaves alone the key and the tenant that the requests are sent with."""
    for name, value in (case.path_parameters or {}).items():
        if value in PROTECTED:
            case.path_parameters[name] = "none0"


# What a well-formed request can be refused for all the same: type of the problem, and a part of the answer.
DEPENDS_ON_DATA = [
    ("malformed-cursor", ""),  # A cursor is opaque, and of one list only.
    ("malformed-position", ""),  # So is a position.
    ("module-rejected", ""),  # Bytes need not be a module.
    ("invalid-arguments", "bytes together"),  # A schema bounds one argument, not their sum.
    ("invalid-body", "must lie in the future"),
    ("invalid-body", "Nothing is to be changed"),
    ("invalid-body", "must lie between 1 and 3600"),  # The node's own setting may be lower than what any may allow.
    ("invalid-body", "says how stdin is written"),  # One member is about another.
    ("invalid-body", "is not base64"),
    ("invalid-body", "must be absent"),  # An uploaded module has no versions.
    ("invalid-query", "lies after to"),
    ("invalid-query", "needs metered=true"),  # One parameter is about another.
    ("invalid-query", "needs clock=virtual"),
    ("precondition-failed", ""),  # A tag is opaque, and of one state only.
    ("idempotency-key-reused", ""),  # A key that is drawn twice comes with two requests.
]

# What a well-formed request can fail for by no fault of the node.
IN_TIME = [
    ("not-there-yet", ""),  # A position that is well-formed by chance lies in the future.
    ("deadline-passed", ""),  # A timeout of a millisecond may have passed before there is a slot.
]


def is_trimmed_on_the_way(case):
    """White space around the value of a field is no part of it (RFC 9110, 5.5): what broke the schema never arrived."""
    return any(value != value.strip() for value in (case.headers or {}).values() if isinstance(value, str))


def refused_for(response, reasons):
    try:
        text = response.text
        kind = json.loads(text)["type"].rsplit("/", 1)[-1]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return any(kind == slug and part in text for slug, part in reasons)


@schemathesis.hook
def filter_failure(context, failure, case, response):
    name = type(failure).__name__
    if name == "RejectedPositiveData":
        return not refused_for(response, DEPENDS_ON_DATA)
    if name == "AcceptedNegativeData":
        # With 412 it was not accepted: what it was to change had changed.
        return response.status_code != 412 and not is_trimmed_on_the_way(case)
    if name == "ServerError":
        return not refused_for(response, IN_TIME)
    return True


STATUSES = collections.defaultdict(collections.Counter)


@schemathesis.hook
def after_call(context, case, response):
    STATUSES[case.operation.definition.raw["operationId"]][str(response.status_code)] += 1


@atexit.register
def report():
    with open(REPORT, "w", encoding="utf-8") as file:
        json.dump(STATUSES, file)
