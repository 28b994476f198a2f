"""Holds docs/asyncapi.yaml against itself and against messages: JSON lines on standard input, each with its subject,
headers and payload. Names on standard output the types that the document describes; fails with what is wrong, if anything is.

    python3 tests/contract/feed.py docs/asyncapi.yaml < messages
"""

import json
import re
import sys

import yaml
from jsonschema import Draft7Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

DOCUMENT = "urn:document"


class Document:
    def __init__(self, text):
        self.document = yaml.safe_load(text)
        self.resource = Resource.from_contents(self.document, default_specification=DRAFT7)
        self.registry = Registry().with_resource(DOCUMENT, self.resource)
        self.messages = self.document["components"]["messages"]

    def resolve(self, node):
        while "$ref" in node:
            node = self.registry.resolver(DOCUMENT).lookup(DOCUMENT + node["$ref"]).contents
        return node

    def differences(self, pointer, value):
        schema = {"$ref": f"{DOCUMENT}#{pointer}"}
        validator = Draft7Validator(schema, registry=self.registry, format_checker=FormatChecker())
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]

    def undescribed(self, schema, value, path="$"):
        """Members that no schema names: the document says less than it could."""
        if not isinstance(value, dict):
            return []
        schemas, properties, is_open = [self.resolve(schema)], {}, False
        while schemas:
            schema = schemas.pop()
            schemas += [self.resolve(part) for part in schema.get("allOf", ())]
            is_open = is_open or "additionalProperties" in schema
            for name, part in schema.get("properties", {}).items():
                properties.setdefault(name, []).append(part)
        found = [] if is_open else [f"{path}.{name} is not described" for name in value if name not in properties]
        for name, parts in properties.items():
            if name in value:
                found += self.undescribed({"allOf": parts}, value[name], f"{path}.{name}")
        return found

    def own_faults(self):
        channel = self.document["channels"]["events"]
        if self.document["asyncapi"] != "3.0.0" or len(self.document["channels"]) != 1:
            yield "it is not AsyncAPI 3.0.0 with one channel"
        listed = {reference["$ref"] for reference in channel["messages"].values()}
        if listed != {f"#/components/messages/{name}" for name in self.messages}:
            yield "the channel lists other messages than there are"
        if set(re.findall(r"{(\w+)}", channel["address"])) != set(channel["parameters"]):
            yield "the address has other parameters than are described"
        for name, message in self.messages.items():
            if not message.get("examples"):
                yield f"{name} has no example"
            for example in message.get("examples", ()):
                for fault in self.faults(name, example):
                    yield f"{name}, example {example['name']}: {fault}"

    def faults(self, name, message):
        pointer = f"/components/messages/{name}"
        yield from self.differences(f"{pointer}/payload", message["payload"])
        yield from self.undescribed(self.messages[name]["payload"], message["payload"])
        yield from self.differences(f"{pointer}/headers", message["headers"])
        if message["headers"].get("Nats-Msg-Id") != message["payload"].get("id"):
            yield "Nats-Msg-Id is not the event's id"

    def subject(self, event):
        """Where an event belongs, by the address of the channel."""
        kind, id = event["subject"].split("/", 1)
        values = {
            "tenant": event["source"].removeprefix("/tenants/"),
            "kind": kind,
            "id": re.sub(r"[^0-9A-Za-z_-]", "_", id),
            "happened": event["type"].split(".")[-2],
        }
        return re.sub(r"{(\w+)}", lambda match: values[match[1]], self.document["channels"]["events"]["address"])


def main(document, messages):
    faults = list(document.own_faults())
    by_type = {message["name"]: name for name, message in document.messages.items()}
    for line in messages:
        message = json.loads(line)
        event = message["payload"]
        name = by_type.get(event["type"])
        found = list(document.faults(name, message)) if name else ["its type is not described"]
        if not found and message["subject"] != document.subject(event):
            found = [f"it is on {message['subject']}, and belongs on {document.subject(event)}"]
        faults += [f"{event['type']}: {fault}" for fault in found]
    if faults:
        sys.exit("\n".join(faults))
    print(" ".join(sorted(by_type)))


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        main(Document(file.read()), sys.stdin)
