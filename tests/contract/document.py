"""Is the OpenAPI document one, does it hold together, and are its examples what its schemas say?

Reads the document from standard input, prints every fault, and ends with 1 when there is one.
"""

import json
import sys

from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import OpenAPIV30SpecValidator

document = json.load(sys.stdin)
components = document["components"]
faults = []


def walk(node, path=""):
    """Every object of the document with the pointer to it."""
    if isinstance(node, dict):
        yield path, node
        children = node.items()
    else:
        children = enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        # An example is no part of the document's own structure.
        if name not in ("example", "value"):
            yield from walk(child, f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}")


def resolve(pointer):
    node = document
    for part in pointer.removeprefix("#/").split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def resolved(node):
    return resolve(node["$ref"]) if "$ref" in node else node


def check(path, example, schema):
    global examples
    examples += 1
    # References are into the document.
    validator = OAS30Validator({**schema, "components": components}, format_checker=OAS30Validator.FORMAT_CHECKER)
    for error in validator.iter_errors(example):
        faults.append(f"{path}: the example is not of its schema: {error.message}")


examples = 0
for error in OpenAPIV30SpecValidator(document).iter_errors():
    faults.append(f"not an OpenAPI 3.0 document: {error.message}")

used = set()
for path, node in walk(document):
    reference = node.get("$ref")
    if isinstance(reference, str):
        used.add(reference)
        try:
            resolve(reference)
        except (KeyError, TypeError):
            faults.append(f"{path}: {reference} is not there")
for kind in components:
    if kind == "securitySchemes":
        names = {name for _, node in walk(document) for security in node.get("security", []) for name in security}
        unused = set(components[kind]) - names
    else:
        unused = {name for name in components[kind] if f"#/components/{kind}/{name}" not in used}
    faults.extend(f"components/{kind}/{name} is used by nothing" for name in sorted(unused))

for name, schema in components["schemas"].items():
    if "example" in schema:
        check(f"/components/schemas/{name}", schema["example"], schema)
for path, node in walk(document):
    # Parameters, headers and contents have a schema, and an example or several.
    if isinstance(node.get("schema"), dict):
        if "example" in node:
            check(path, node["example"], node["schema"])
        for example in node.get("examples", {}).values():
            check(path, resolved(example)["value"], node["schema"])

print(f"{len(document['paths'])} paths, {len(used)} references, {examples} examples, {len(faults)} faults")
for fault in faults:
    print(fault)
sys.exit(1 if faults else 0)
