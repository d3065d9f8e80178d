"""Special tokens of the served model, from its tokenizer files where they are on this machine."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from hybridserve.catalog.licenses import pinned_commit
from hybridserve.errors import HybridServeError
from hybridserve.guards.special_tokens import special_tokens
from hybridserve.planning.resolve import find_model, weights_source
from hybridserve.settings import Settings

log = logging.getLogger("hybridserve.access")


def served_special_tokens(settings: Settings) -> tuple[str, ...]:
    """Special tokens that the model's tokenizer files declare; empty where they cannot be found.

    Tokens in the usual forms are escaped without this list (`guards.special_tokens`).
    """
    try:
        model = find_model(settings)
        source = weights_source(settings, model)
    except HybridServeError:  # a model that only the engine knows
        return ()
    revision = settings.model.revision or pinned_commit(model, settings.model.source)
    files = [_read(source, revision, name) for name in ("tokenizer_config.json", "tokenizer.json")]
    tokens = special_tokens(*files)
    log.debug("special_tokens", extra={"found": len(tokens), "files": sum(file is not None for file in files)})
    return tokens


def _read(source: str, revision: str | None, name: str) -> object:
    path = Path(source) / name
    if not path.is_file():
        # Imported here, because it takes a tenth of a second.
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(source, name, revision=revision)
        except HFValidationError:  # a folder that does not exist here
            return None
        if not isinstance(found, str):
            return None
        path = Path(found)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
