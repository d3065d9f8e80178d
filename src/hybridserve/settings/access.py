"""Section `access`: who may ask for what, how much, and how often."""

from typing import Literal

from pydantic import Field

from hybridserve.settings.section import Section

Scope = Literal["inference", "metrics", "admin"]


class AccessSection(Section):
    """Keys and limits. Limits hold for one key in one server process; a line of the key file may set its own."""

    keys_file: str | None = None
    """File with one hashed key a line, as `hybridserve key new` writes it. Read again when it changes."""
    anonymous_scopes: tuple[Scope, ...] | None = None
    """What a request without a key may do. Empty: inference and metrics in the demo profile without a key file,
    else nothing."""
    open_routes: tuple[str, ...] = ()
    """Further routes for the inference scope, as "POST /tokenize". Others need the admin scope."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests of one key in a minute."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and output tokens of one key in a minute."""
    max_streams: int | None = Field(default=None, ge=1)
    """Requests of one key that run at once."""
    max_in_flight: int | None = Field(default=1024, ge=1)
    """Requests of all keys that run or wait at once in one server process; further ones get 429."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Largest request body."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt, as the engine's own tokenizer counts it."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, reasoning included."""
    long_output: Literal["clamp", "refuse"] = "clamp"
    """A request that asks for more: cut down to the limit, or refused with 400."""
    max_choices: int = Field(default=4, ge=1)
    """Answers that one request may ask for (`n`, `best_of`)."""
    refused_fields: tuple[str, ...] = (
        "chat_template",
        "kv_transfer_params",
        "ec_transfer_params",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "vllm_xargs",
        "priority",
    )
    """Fields of a request that reach into the engine; a request that sets one is refused."""
    isolate_prefix_cache: bool = False
    """Give each key a prefix cache of its own, so that no key can probe another's prompts by timing."""
    idempotency_s: float = Field(default=600.0, gt=0)
    """How long the answer to a request with an Idempotency-Key is kept for a client that asks again."""
    stalled_reader_s: float = Field(default=60.0, gt=0)
    """A client that reads nothing from its stream for this long is disconnected, and its sequence is freed."""

    def scopes_without_key(self, profile: str) -> tuple[Scope, ...]:
        """What a request without a key may do under a profile."""
        if self.anonymous_scopes is not None:
            return self.anonymous_scopes
        return ("inference", "metrics") if profile == "demo" and not self.keys_file else ()
