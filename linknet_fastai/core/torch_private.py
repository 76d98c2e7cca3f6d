"""Everything in this package that uses a private name of torch. A test reports when torch changes one of them."""

import torch


def cpu_has_bf16() -> bool:
    """Whether this CPU computes bfloat16 natively, with AMX or AVX512-BF16. Without it bf16 is slower than fp32.

    torch has no public name for it. A torch without these names is not refused: its CPUs train in fp32 by default.
    """
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
