"""How layers are split over the stages of a pipeline."""

from __future__ import annotations


def split_layers(layers: int, stages: int) -> tuple[int, ...]:
    """Layers of each pipeline stage: what is left over goes to the stages before the last, from the back.

    Source: vLLM distributed/utils.py, get_pp_indices.
    """
    split = [layers // stages] * stages
    for extra in range(2, layers % stages + 2):
        split[-extra] += 1
    return tuple(split)
