"""Which floating-point type suits a device. Needs torch: imported only where a model is loaded."""

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32, else float32.

    On GPUs without bfloat16 it is float16, which overflows in some text encoders and decoders.
    """
    if device.type == "cuda":
        # By default torch counts older GPUs in, which only emulate it.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    # Without such tiles a CPU emulates bfloat16, slower than it computes in float32.
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
