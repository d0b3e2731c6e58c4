"""Holds exchanges against docs/openapi.yaml: usage: openapi.py FILE <EXCHANGES.

The exchanges are a JSON array of {"path", "request": {"headers", "body"}, "reply": {"status", "headers", "body"}}, bodies
as text; "reply" may be null. Every fault is a line, and any of them makes the exit code 1. The document's own examples and
references are checked too.
"""

import json
import sys

import jsonschema
import yaml

faults = []


def check(value, schema, where):
    """`schema` stands beside the whole document, so that its references find their way."""
    validator = jsonschema.Draft202012Validator({"components": document["components"], "allOf": [schema]})
    for error in validator.iter_errors(value):
        faults.append(f"{where}: {'/'.join(map(str, error.absolute_path))}: {error.message}")


def resolved(node):
    while "$ref" in node:
        target = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def walk(node):
    """Every reference must lead somewhere."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            resolved({"$ref": node["$ref"]})
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        walk(child)


def check_headers(wanted, got, where):
    got = {name.lower(): value for name, value in got}
    for name, header in wanted:
        if name.lower() in got:
            check(got[name.lower()], header["schema"], f"{where}: {name}")
        elif header.get("required"):
            faults.append(f"{where}: {name}: missing")


def check_body(content, headers, body, where):
    kind = {name.lower(): value for name, value in headers}.get("content-type")
    if kind not in content:
        return faults.append(f"{where}: content type {kind}")
    check(json.loads(body), content[kind]["schema"], where)


with open(sys.argv[1], encoding="utf-8") as file:
    document = yaml.safe_load(file)
assert document["openapi"].startswith("3.1.")
walk(document)
for path, item in document["paths"].items():
    contents = [item["post"]["requestBody"]["content"], item["post"]["responses"]["200"]["content"]]
    for content in contents:
        check(content["application/json"]["example"], content["application/json"]["schema"], f"{path}: example")

for exchange in json.load(sys.stdin):
    operation = document["paths"][exchange["path"]]["post"]
    request, reply = exchange["request"], exchange["reply"]
    where = f"{exchange['path']}: request {request['body'][:200]}"
    parameters = [resolved(parameter) for parameter in operation["parameters"]]
    check_headers([(parameter["name"], parameter) for parameter in parameters], request["headers"], where)
    check_body(operation["requestBody"]["content"], request["headers"], request["body"], where)
    if reply is None:
        continue
    where = f"{exchange['path']}: reply {reply['status']} {reply['body'][:200]}"
    response = resolved(operation["responses"].get(str(reply["status"]), operation["responses"]["default"]))
    headers = [(name, resolved(header)) for name, header in response.get("headers", {}).items()]
    check_headers(headers, reply["headers"], where)
    if "content" in response:
        check_body(response["content"], reply["headers"], reply["body"], where)

print("\n".join(faults))
sys.exit(1 if faults else 0)
