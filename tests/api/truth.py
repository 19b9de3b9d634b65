"""What the document promises of one answer."""

from typing import Any

from jsonschema import Draft202012Validator

Json = dict[str, Any]


class Document:
    def __init__(self, document: Json) -> None:
        self._paths = document["paths"]
        # References in a schema point into the whole document.
        self._components = {"schemas": {name: _closed(one) for name, one in document["components"]["schemas"].items()}}
        self.operations = {f"{method.upper()} {path}" for path, methods in self._paths.items() for method in methods}

    def broken_by(self, operation: str, *, status: int, content_type: str, body: object) -> str | None:
        """What of an answer the document does not promise; None when all of it does."""
        method, path = operation.split(" ")
        promised = self._paths[path][method.lower()]["responses"].get(str(status))
        if promised is None:
            return f"{operation}: {status} is not documented: {body}"
        media = content_type.partition(";")[0]
        if media not in promised.get("content", {}):
            return f"{operation}: {status} as {media} is not documented"
        schema = {**promised["content"][media]["schema"], "components": self._components}
        errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(body)]
        return f"{operation}: {status}: {'; '.join(errors)}" if errors else None


def _closed(schema: Json) -> Json:
    """Merchants are told to bear members they do not know; we are to know all of ours."""
    return {**schema, "additionalProperties": False} if "properties" in schema else schema
