#!/usr/bin/env python3
"""Write the JSON schemas that kubeconform asks for, so that it fetches none.

schemas.py OUT SWAGGER CRD…: SWAGGER is the API that Kubernetes publishes, each CRD a file of
CustomResourceDefinitions. Every object's unknown fields are refused, as the API server does with
strict field validation.
"""

import json
import pathlib
import sys

import yaml

PREFIX = "#/definitions/"
# What the published types call a string and the API server takes as a number too.
NUMBERS_TOO = (
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
    "io.k8s.apimachinery.pkg.api.resource.Quantity",
)


def strict(schema):
    """The schema with unknown fields refused and null allowed, as in Kubernetes itself."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: strict(inner) for name, inner in value.items()}
        elif key in ("default", "enum", "example"):
            result[key] = value
        elif not key.startswith("x-") and key != "format":
            result[key] = strict(value)
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["string", "integer"]
    elif schema.get("x-kubernetes-preserve-unknown-fields"):
        pass
    elif "properties" in schema and "additionalProperties" not in schema:
        result["additionalProperties"] = False
    if isinstance(result.get("type"), str) and "enum" not in result:
        result["type"] = [result["type"], "null"]
    return result


def references(schema):
    """The names of the definitions that a schema refers to."""
    if isinstance(schema, list):
        return {name for item in schema for name in references(item)}
    if not isinstance(schema, dict):
        return set()
    own = schema.get("$ref")
    found = {own.removeprefix(PREFIX)} if isinstance(own, str) else set()
    return found.union(*(references(value) for value in schema.values()))


def write(out, group, version, kind, schema):
    """One schema, under the name that kubeconform makes of a kind."""
    suffix = f"-{group.split('.')[0]}-{version}" if group else f"-{version}"
    out.joinpath(f"{kind}{suffix}.json".lower()).write_text(json.dumps(schema))


def built_in(out, swagger):
    """The kinds that every cluster has."""
    definitions = json.loads(swagger.read_text())["definitions"]
    for name in NUMBERS_TOO:
        definitions[name] = {"type": "string", "x-kubernetes-int-or-string": True}
    ready = {name: strict(schema) for name, schema in definitions.items()}
    for name in NUMBERS_TOO:
        ready[name] = {"type": ["string", "number", "null"]}
    for name, schema in definitions.items():
        kinds = schema.get("x-kubernetes-group-version-kind", [])
        if len(kinds) != 1:
            continue
        needed, open_ = set(), references(ready[name])
        while open_:
            needed |= open_
            open_ = set().union(*(references(ready[n]) for n in open_)) - needed
        whole = ready[name] | {"definitions": {n: ready[n] for n in sorted(needed)}}
        write(out, kinds[0]["group"], kinds[0]["version"], kinds[0]["kind"], whole)


def custom(out, file):
    """The kinds that a file defines."""
    for document in yaml.safe_load_all(file.read_text()):
        if not document or document.get("kind") != "CustomResourceDefinition":
            continue
        spec = document["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            write(out, spec["group"], version["name"], spec["names"]["kind"], schema)


def main():
    """Read the arguments and write every schema."""
    out = pathlib.Path(sys.argv[1])
    built_in(out, pathlib.Path(sys.argv[2]))
    for name in sys.argv[3:]:
        custom(out, pathlib.Path(name))


if __name__ == "__main__":
    main()
