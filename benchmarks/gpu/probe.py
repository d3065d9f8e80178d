"""Measure the card itself, before any engine starts."""

from __future__ import annotations

import statistics
from typing import Any


def probe(sizes: dict[str, Any], out: dict[str, Any], **_: Any) -> None:
    """Copy and read bandwidth and bfloat16 rate of the card, and three kernels compared with PyTorch's."""
    import torch

    if not torch.cuda.is_available():
        return
    p = torch.cuda.get_device_properties(0)
    out["device"] = {"name": p.name, "total_memory": p.total_memory, "sms": p.multi_processor_count}
    out["mem_get_info"] = torch.cuda.mem_get_info()
    if sizes["suffix"]:
        return

    def seconds(fn: Any, n: int) -> float:
        for _ in range(3):
            fn()
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        times = []
        for _ in range(n):
            a.record()
            fn()
            b.record()
            b.synchronize()
            times.append(a.elapsed_time(b) / 1e3)
        return statistics.median(times)

    x = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    out["copy_TB_per_s"] = round(2 * x.numel() * 2 / seconds(lambda: y.copy_(x), 10) / 1e12, 3)
    out["read_TB_per_s"] = round(x.numel() * 2 / seconds(lambda: x.sum(), 10) / 1e12, 3)
    out["kernels"] = kernels()
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out["bf16_TFLOP_per_s"] = round(2 * 8192**3 / seconds(lambda: a @ b, 10) / 1e12, 1)


def kernels() -> dict[str, Any]:
    """Relative error of the carried libraries' kernels against PyTorch's, or the error that a kernel raised."""
    import torch
    from torch.nn import functional
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    out: dict[str, Any] = {}

    def relative_error(got: Any, want: Any) -> Any:
        error = float((got.float() - want.float()).norm() / want.float().norm())
        return round(error, 6) if error == error else "nan"

    def check(name: str, fn: Any) -> None:
        try:
            out[name] = fn()
        except Exception as error:
            out[name] = f"{type(error).__name__}: {error}"[:300]

    x = torch.randn(64, 2 * 1024, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(2048, device="cuda", dtype=torch.bfloat16)

    def silu() -> Any:
        got = torch.full((64, 1024), float("nan"), device="cuda", dtype=torch.bfloat16)
        torch.ops._C.silu_and_mul(got, x)
        return relative_error(got, functional.silu(x[:, :1024]) * x[:, 1024:])

    def norm() -> Any:
        got = torch.full_like(x, float("nan"))
        torch.ops._C.rms_norm(got, x, w, 1e-6)
        return relative_error(got, functional.rms_norm(x.float(), (2048,), w.float(), 1e-6))

    def attention() -> Any:
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        n, h, kv, d = 512, 40, 8, 128
        q = torch.randn(n, h, d, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(n, kv, d, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        ends = torch.tensor([0, n], device="cuda", dtype=torch.int32)
        got = flash_attn_varlen_func(q, k, v, n, ends, n, cu_seqlens_k=ends, causal=True, fa_version=3)
        heads = (t.float().transpose(0, 1)[None] for t in (q, k, v))
        want = functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
        return relative_error(got, want)

    for name, fn in (("silu_and_mul", silu), ("rms_norm", norm), ("flash_attention_3", attention)):
        check(name, fn)
    torch.cuda.synchronize()
    return out
