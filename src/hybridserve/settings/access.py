"""Section `access`: API keys, scopes, limits and allowed request fields."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hybridserve.settings.section import Section

Scope = Literal["inference", "metrics", "admin"]


class AccessSection(Section):
    """Keys and limits. A limit applies to one key over all replicas; a line of the key file can override it."""

    keys_file: str | None = None
    """File with one hashed key per line, as `hybridserve key new` writes it. Reloaded when it changes."""
    anonymous_scopes: tuple[Scope, ...] | None = None
    """Scopes of a request without a key. Empty: inference and metrics in the demo profile without a key file, else
    none."""
    open_routes: tuple[str, ...] = ()
    """Additional routes for the inference scope, such as "POST /tokenize". Other routes need the admin scope."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests per minute for one key."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and output tokens per minute for one key."""
    max_streams: int | None = Field(default=None, ge=1)
    """Concurrent requests of one key."""
    limits_url: str | None = Field(default=None, pattern="^(rediss?|unix)://[^@]*$")
    """Redis or Valkey in which the limits of a key are kept for replicas that share no Ray cluster, such as
    redis://limits:6379/0. Empty: replicas of one Ray cluster share them through Ray, a single process keeps its own."""
    limits_password_file: Path | None = None
    """File with the password of `limits_url`."""
    max_in_flight: int | None = Field(default=1024, ge=1)
    """Concurrent requests of all keys in one server process, waiting ones included; more get 429."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Maximum size of a request body."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Maximum length of a prompt, in tokens of the model's tokenizer."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """Maximum length of an answer, reasoning included."""
    long_output: Literal["clamp", "refuse"] = "clamp"
    """What happens to a request that wants more: its limit is lowered, or it is rejected with 400."""
    max_choices: int = Field(default=4, ge=1)
    """Maximum number of answers to one request: `n` or `best_of`, for each prompt of a completion."""
    refused_fields: tuple[str, ...] = (
        "chat_template",
        "kv_transfer_params",
        "ec_transfer_params",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "vllm_xargs",
        "priority",
    )
    """Request fields that change the engine's behavior; a request that sets one is rejected."""
    isolate_prefix_cache: bool = False
    """Give each key a separate prefix cache, so that no key can probe another's prompts by timing."""
    idempotency_s: float = Field(default=600.0, gt=0)
    """How long the answer to a request with an Idempotency-Key is kept for a retry by the client."""
    stalled_reader_s: float = Field(default=60.0, gt=0)
    """A client that reads nothing from its stream for this long is disconnected, and its sequence is freed."""

    def scopes_without_key(self, profile: str) -> tuple[Scope, ...]:
        """What a request without a key may do under a profile."""
        if self.anonymous_scopes is not None:
            return self.anonymous_scopes
        return ("inference", "metrics") if profile == "demo" and not self.keys_file else ()
