"""The text view of a plan, with a memory bar on a terminal."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

import typer

from hybridserve.planning.speculation import LARGEST_BATCH
from hybridserve.units import GIB, MIB, counted

WIDTH = 100
BAR = (("weights", "blue"), ("runtime", "magenta"), ("activation", "yellow"), ("graphs", "cyan"), ("pool", "green"))


def show_plan(plan: dict[str, Any]) -> None:
    """Print the plan of `report`."""
    _headline(plan)
    _memory(plan)
    _cache(plan)
    _capacity(plan)
    _flags(plan)
    if plan["warnings"]:
        _title("Warnings")
        for warning in plan["warnings"]:
            _item(warning)


def _headline(plan: dict[str, Any]) -> None:
    devices = plan["tensor_parallel_size"] * plan["pipeline_parallel_size"]
    where = f"{devices} x {plan['accelerator']['name']}" if devices > 1 else plan["accelerator"]["name"]
    typer.secho(f"{plan['name']} on {where}, vLLM {plan['engine']}", bold=True)
    if plan["confidence"] == "known":
        typer.echo(f"known pool: {plan['memory']['pool_source']}")
    else:
        typer.echo(
            f"estimate: the cache pool is within ±{plan['memory']['band'] / GIB:.2f} GiB; the flags below are for the "
            "low end"
        )
    defaults = plan["without_advice"]
    if "what" in defaults:
        outcome = "would not start" if defaults["verdict"] == "refused" else "may not start"
        own = " that you did not set," if defaults["given"] else ""
        _item(f"Without the flags below{own} the engine {outcome}: {defaults['what']}", mark="!")


def _memory(plan: dict[str, Any]) -> None:
    memory = plan["memory"]
    total = memory["total"]
    _title(f"Memory of one device: {total / GIB:.2f} GiB{_total_note(plan)}" if total else "Memory")
    if total and sys.stdout.isatty():
        _bar(memory)
    rows = [
        ("weights", memory["weights"], _weights_note(memory)),
        ("runtime", memory["runtime"], "workspaces, buffers, the sampler's counts, what compiling may keep"),
        ("activation", memory["activation"], "peak of one full step, of the sampler, or of the largest image"),
        ("graphs", memory["graphs"], "captured CUDA graphs"),
        ("cache pool", memory["pool"], memory["pool_source"]),
        ("not used", total - memory["requested"] if total else 0, "contains the CUDA context"),
        ("start-up peak", memory["startup_peak"], _peak_reason(memory)),
    ]
    for name, size, note in rows:
        if size > 0:
            typer.echo(f"  {name:<14}{size / GIB:>8.2f} GiB  {note}")


def _total_note(plan: dict[str, Any]) -> str:
    device = plan["accelerator"]
    if device["memory_set"]:
        return ", set by you: more than any device of this kind has" if device["memory_exceeded"] else ", set by you"
    nominal = f" of {device['nominal_gb']} GB" if device["nominal_gb"] else ""
    return f"{nominal}, as PyTorch reports it" if plan["accelerator"]["id"] != "cpu" else ""


def _weights_note(memory: dict[str, Any]) -> str:
    notes = [memory["weights_source"]]
    if memory["weights_band"]:
        notes.append(f"±{memory['weights_band'] / GIB:.2f} GiB")
    if memory["lora"]:
        notes.append(f"with {memory['lora'] / GIB:.2f} GiB of LoRA slots")
    if memory["host"]:
        notes.append(f"without {memory['host'] / GIB:.2f} GiB in the host's memory")
    return ", ".join(notes)


def _peak_reason(memory: dict[str, Any]) -> str:
    if memory["profiling_cache"] > memory["pool"]:
        return f"measuring graphs temporarily takes {memory['profiling_cache'] / GIB:.2f} GiB of cache"
    return "with the pool and the graphs allocated"


def _bar(memory: dict[str, Any]) -> None:
    """Draw the memory of the device as a bar."""
    from rich.console import Console
    from rich.text import Text

    text, used = Text("  "), 0
    for name, color in BAR:
        cells = round(80 * max(memory[name], 0) / memory["total"])
        text.append("█" * cells, style=color)
        used += cells
    text.append("░" * max(0, 80 - used), style="dim")
    legend = Text("  ")
    for name, color in BAR:
        legend.append("█ ", style=color).append(f"{name}  ")
    console = Console(highlight=False)
    console.print(text)
    console.print(legend)


def _cache(plan: dict[str, Any]) -> None:
    cache = plan["cache"]
    groups = [group["kind"] for group in cache["groups"]]
    state = groups.count("state")
    kinds = f"{groups.count('attention')} attention" + (f" and {state} state" if state else "")
    layers = cache["groups"][0]["layers"] if cache["groups"] else 0
    _title("Cache")
    if state:
        _row("mode", f"{cache['mode']}, state in {cache['mamba_ssm_cache_dtype']}")
    _row(
        "block",
        f"{cache['block_size']:,} tokens, page {cache['page_bytes']:,} B"
        + (f" (padding {cache['padding_percent']:.2f} %)" if state else ""),
    )
    _row(
        "groups",
        f"{kinds} of up to {layers} layers"
        + (f", {counted(cache['padding_layers'], 'padding layer')}" if cache["padding_layers"] else "")
        + f": {cache['bytes_per_block'] / MIB:.2f} MiB a block",
    )
    _row("per token", f"{cache['kv_bytes_per_token']:,} B of keys and values")
    if state:
        per_block = cache["bytes_per_block"] / MIB
        _row(
            "per sequence",
            f"{cache['state_bytes_per_sequence'] / MIB:.1f} MiB of state, allocated as "
            f"{cache['state_blocks_running'] * per_block:.1f} MiB and budgeted as "
            f"{cache['state_blocks_budgeted'] * per_block:.1f} MiB",
        )
    prefix = cache["smallest_cacheable_prefix"]
    _row("prefix reuse", f"prefixes of {prefix:,} tokens or more" if prefix else "off")


def _capacity(plan: dict[str, Any]) -> None:
    capacity = plan["capacity"]
    _title("Capacity")
    _row("blocks", _ends(capacity["num_blocks"]))
    concurrency = " to ".join(f"{value:.2f}x" for value in _distinct(capacity["printed_concurrency"]))
    _row("engine log", f"GPU KV cache size: {_ends(capacity['printed_tokens'])} tokens")
    _row("", f"Maximum concurrency for {capacity['max_model_len']:,} tokens per request: {concurrency}")
    length = capacity["request_length"]
    _row("N_safe", f"{_ends(capacity['n_safe'], 'request')} of {length:,} tokens, no preemption possible")
    steady = "rare preemptions" if capacity["n_steady"] != capacity["n_safe"] else "no preemption possible"
    _row("N_steady", f"{_ends(capacity['n_steady'], 'request')} of {length:,} tokens, {steady}")
    if capacity["asked"]:
        _row("asked for", _asked(capacity))
    _row("longest context", f"{_ends(capacity['longest_context'])} tokens would start")
    _row("planned for", plan["workload"]["source"])
    if plan["bound"]:
        _bound(plan["bound"], capacity["asked"])
    if plan["drafts"]:
        _row("drafts pay", f"for {', '.join(map(_pays, plan['drafts']['pays']))} accepted")
        _row("", f"{counted(plan['drafts']['tokens'], 'draft token')} a step; running sequences, from the same model")
    if "cost" in plan:
        first, *rest = cost_lines(plan["cost"])
        _row("least cost", first)
        for line in rest:
            _row("", f"{line}: a lower bound, at the upper bound of throughput")
    if calibrated := plan.get("calibrated_cost"):
        first, second = cost_lines(calibrated)
        lower = calibrated["basis"] == "bound"
        _row("least cost" if lower else "measured cost", first)
        _row("", f"{second}, {counted(calibrated['sequences'], 'sequence')}{': a lower bound' if lower else ''}")
        _row("", f"step times: {calibrated['calibration']}")


def _bound(bound: dict[str, Any], asked: dict[str, Any] | None) -> None:
    """The throughput bound. The larger part of the time comes first: its limit is the one to choose a device by."""
    running = counted(bound["batch"], "sequence")
    if asked and asked["sequences"] > bound["batch"]:
        running = f"{bound['batch']:,} of {counted(asked['sequences'], 'sequence')}"
    _row(
        "upper bound",
        f"{bound['output_tokens_per_s']:,.0f} output tokens/s with {running}, "
        f"{bound['inter_token_s'] * 1e3:.1f} ms a token",
    )
    prompts = round(100 * bound["prefill_share"])
    parts = [(prompts, "prompts", bound["prefill_limit"]), (100 - prompts, "decode", bound["decode_limit"])]
    (share, part, limit), (rest, other, limit_of_other) = sorted(parts, reverse=True)
    _row("", f"{share}% of the time on {part}, limited by {limit}; {rest}% on {other}, limited by {limit_of_other}")
    _row("", "from a roofline model, not a forecast: a real engine stays below it")


def _asked(capacity: dict[str, Any]) -> str:
    """What was asked for with max_num_seqs, and whether it fits."""
    asked, length = capacity["asked"], capacity["request_length"]
    requests = f"{counted(asked['sequences'], 'request')} at once (max_num_seqs)"
    if asked["fits"]:
        preemptions = "without preemption" if asked["preemptions"] == "none" else "with rare preemptions"
        return f"{requests}: fit at {length:,} tokens each, {preemptions}"
    most = _ends(capacity["n_steady"])
    return f"{requests}: do not fit at {length:,} tokens each: {most} do, the others wait or are preempted"


def _pays(row: dict[str, Any]) -> str:
    """Numbers of running sequences for which drafts pay at one acceptance rate."""
    first, last = row["first"], row["last"]
    if first is None:
        batches = "none"
    elif last == LARGEST_BATCH:
        batches = "any number" if first == 1 else f"{first:,} or more"
    else:
        batches = f"{first:,} to {last:,}"
    return f"{batches} at {row['acceptance']:.0%}"


def cost_lines(cost: dict[str, Any] | None) -> list[str]:
    """Sentences for a cost; None is not known."""
    if cost is None:
        return ["not known: needs a price, one pipeline stage, and a device with known bandwidth and FLOPs"]
    cached = f", {_price(cost['cached'])} cached" if cost["cached"] is not None else ""
    return [
        f"{_price(cost['input'])} per million input tokens, {_price(cost['output'])} output{cached}; "
        f"{_price(cost['requests'] / 1000)} per thousand requests",
        f"at {cost['price_per_hour']:g} per device-hour, {counted(cost['devices'], 'device')}",
    ]


def _price(amount: float) -> str:
    return f"{amount:.3g}" if amount >= 0.001 else "under 0.001"


def _flags(plan: dict[str, Any]) -> None:
    _title("Set")
    for flag in plan["flags"]:
        _setting(flag["name"], flag["value"])
        _item(flag["reason"], mark=" ")
        _item(f"gain: {flag['gain']}", mark=" ")
    if plan["options"]:
        _title("Consider")
        for option in plan["options"]:
            _setting(option["name"], option["value"])
            _item(f"gain: {option['gain']}", mark=" ")
            _item(f"cost: {option['price']}", mark=" ")


def _setting(name: str, value: Any) -> None:
    flag = name.replace("_", "-")
    typer.secho(
        f"  --{flag}" if value is True else f"  --no-{flag}" if value is False else f"  --{flag} {value}", bold=True
    )


def _distinct(values: list[Any]) -> list[Any]:
    """The low and high end of the band, or one value if they are equal."""
    known = [value for value in (values[0], values[-1]) if value is not None]
    return known if known and known[0] != known[-1] else known[:1]


def _ends(values: list[Any], noun: str = "") -> str:
    """The low and high end of the band; with `noun`, what is counted."""
    first, *last = _distinct(values) or [0]
    if noun:
        return f"{first:,} to {counted(last[0], noun)}" if last else counted(first, noun)
    return " to ".join(f"{value:,}" for value in (first, *last))


def _title(text: str) -> None:
    typer.secho(f"\n{text}", bold=True)


def _row(name: str, text: str) -> None:
    typer.echo(f"  {name:<16}{text}")


def _item(text: str, mark: str = "-") -> None:
    lines = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    typer.echo(textwrap.indent("\n".join(lines), "    ").replace("    ", f"  {mark} ", 1))
