"""What building models on a CPU needs in place of CUDA kernels, encoders, and config classes of checkpoints."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any, ClassVar
from unittest.mock import MagicMock

import torch
from transformers import AutoConfig, PretrainedConfig, Qwen3_5MoeConfig
from vision_placeholders import vision_packages


class BailingHybrid(PretrainedConfig):
    """The config of Ling 2.5 and 3, as config.json has it."""

    model_type = "bailing_hybrid"


class InternS2(Qwen3_5MoeConfig):
    """Of Intern-S2-Preview, whose class of its own comes with the checkpoint."""

    model_type = "intern_s2_preview"


class NemotronVision(PretrainedConfig):
    """Of Nemotron Nano VL and Omni, whose class comes with the checkpoint."""

    model_type = "NemotronH_Nano_VL_V2"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(self, llm_config: dict[str, Any] | None = None, **fields: Any) -> None:
        self.text_config = AutoConfig.for_model(**llm_config or {"model_type": "nemotron_h"})
        self.vision_config = PretrainedConfig(args={})
        super().__init__(**fields)


def stub_experts() -> None:
    """Nemotron 3's experts do not run on CPU and the class refuses to be built there; they own no cache.

    OLMo-Hybrid's allocator for Triton is replaced as well.
    """
    import vllm.model_executor.models.nemotron_h as nemotron_h

    class NoExperts(torch.nn.Module):
        """Takes the constructor's arguments and answers any question about experts with None."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__()

        def __getattr__(self, name: str) -> Any:
            return None

    nemotron_h.NemotronHMoE = NoExperts
    # FlashKDA is a compiled module of the CUDA wheel; Kimi K3's encoder has no cache.
    import vllm.models.kimi_k3.nvidia.model as kimi_k3

    sys.modules["vllm._flashkda_C"] = types.ModuleType("vllm._flashkda_C")
    torch.ops._flashkda_C = types.SimpleNamespace(get_workspace_size=lambda *_: 0)
    kimi_k3.MoonViT3dPretrainedModel = kimi_k3.KimiK25MultiModalProjector = MagicMock()
    # 0.31 asks for a fused kernel of the CUDA wheel.
    kimi_k3.maybe_init_gemm_rs_ar = lambda *_, **__: False
    # Kimi's classes overlap kernels on streams of their own.
    torch.cuda.Stream = MagicMock
    torch.cuda.Event = MagicMock
    # The class of the checkpoint's own code; that of transformers replaces head_dim by the rotary part of MLA.
    AutoConfig.register("bailing_hybrid", BailingHybrid, exist_ok=True)
    AutoConfig.register("intern_s2_preview", InternS2, exist_ok=True)
    AutoConfig.register("NemotronH_Nano_VL_V2", NemotronVision, exist_ok=True)
    # Its encoder has no cache.
    with vision_packages():
        import vllm.model_executor.models.nano_nemotron_vl as nano_vl

    nano_vl.NemotronH_Nano_VL_V2.get_vit_model_from_radio_config = lambda *_: torch.nn.Identity()
    nano_vl.cached_tokenizer_from_config = MagicMock()
    # OLMo-Hybrid sets Triton's allocator while it is built; the CPU build has a placeholder for Triton.
    triton = sys.modules.get("triton") or importlib.import_module("vllm.triton_utils").triton
    if not hasattr(triton, "set_allocator"):
        triton.set_allocator = lambda _: None
