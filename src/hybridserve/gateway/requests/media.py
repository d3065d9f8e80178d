"""URLs of pictures, sound and video in a request, which the engine would fetch from inside the cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hybridserve.gateway.requests.judged_text import MAX_DEPTH

_MEDIA = ("image", "video", "audio", "file", "url")
_NO_MEDIA = ("text", "input", "arguments", "detail", "data")  # a tool may be called with a URL
_URL = re.compile(r"\s*(?!data:)[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def media_urls(body: dict[str, Any]) -> Iterator[str]:
    """URLs of media in the parts of messages, but those that are data themselves (``data:``).

    vLLM takes a part with such a key for media whatever its type says, and fetches http, https and file URLs.
    """
    for field in ("messages", "input"):
        items = body.get(field)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                for key in ("content", "output"):
                    yield from _urls(item.get(key))


def _urls(value: object, depth: int = 0, media: bool = False) -> Iterator[str]:
    if isinstance(value, list) and depth <= MAX_DEPTH:
        for inner in value:
            yield from _urls(inner, depth + 1, media)
    elif isinstance(value, dict) and depth <= MAX_DEPTH:
        for key, inner in value.items():
            if key not in _NO_MEDIA:
                yield from _urls(inner, depth + 1, media or any(word in key for word in _MEDIA))
    elif media and isinstance(value, str) and _URL.match(value):
        yield value
