"""The JSON schema of hybridserve.yaml, with the docstring under each field as its description.

Pydantic could read the docstrings itself (`use_attribute_docstrings`), but that would add 0.1 s to every start.
"""

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from hybridserve.settings.root import Settings
from hybridserve.settings.section import Section


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the whole tree."""
    schema = Settings.model_json_schema()
    sections = {section.__name__: section for section in Section.__subclasses__()}
    for name, described in schema["$defs"].items():
        for field, text in field_docstrings(sections[name]).items():
            described["properties"][field]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hybridserve.yaml", **schema}


def field_docstrings(section: type[BaseModel]) -> dict[str, str]:
    """Field name to the docstring under the field in the source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    body = definition.body
    texts = {}
    for above, below in pairwise(body):
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value)
            texts[above.target.id] = inspect.cleandoc(text)
    return texts
