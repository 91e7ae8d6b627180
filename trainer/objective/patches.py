"""The patch embedding as one matrix product.

timm's is a convolution whose stride is its kernel, which is a linear layer over the pixels of each
patch. As such it is what every device multiplies fastest: on a CPU in bf16 forward and backward
take a sixth to a quarter of the convolution's time (docs/log.md). Weights stay where and as they
are.

Shapes: N images of C x H x W pixels, patches of p x p, E embedding dimensions.
"""

import torch
from timm.layers import PatchEmbed
from torch import nn
from torch.nn import functional


def embed_patches(embedding: nn.Module, images_NCHW: torch.Tensor) -> torch.Tensor:
    """What `embedding` gives: (N, H / p, W / p, E), for float images with sides divisible by p.

    Embeddings of another kind, such as those of hybrid models, are called as they are.
    """
    convolution = linear_part(embedding)
    if convolution is None:
        embedded: torch.Tensor = embedding(images_NCHW)
        return embedded
    num, channels, height, width = images_NCHW.shape
    patch = convolution.kernel_size[0]
    rows, columns = height // patch, width // patch
    cut = images_NCHW.reshape(num, channels, rows, patch, columns, patch)
    pixels = cut.permute(0, 2, 4, 1, 3, 5).reshape(num, rows, columns, channels * patch * patch)
    tokens = functional.linear(pixels, convolution.weight.flatten(1), convolution.bias)
    normalised: torch.Tensor = embedding.get_submodule("norm")(tokens)
    return normalised


def linear_part(embedding: nn.Module) -> nn.Conv2d | None:
    """The convolution of timm's plain embedding that keeps rows and columns apart, or none."""
    if type(embedding) is not PatchEmbed or embedding.flatten or embedding.dynamic_img_pad:
        return None
    convolution = embedding.get_submodule("proj")
    if (
        isinstance(convolution, nn.Conv2d)
        and convolution.kernel_size == convolution.stride
        and convolution.kernel_size[0] == convolution.kernel_size[1]
        and convolution.padding == (0, 0)
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and embedding.output_fmt == "NHWC"
    ):
        return convolution
    return None
