"""Building PyTorch modules whose weights come from elsewhere."""

from typing import Any

from torch.overrides import TorchFunctionMode


class NoRandomWeights(TorchFunctionMode):
    """In this context modules are made without `torch.nn.init`: their weights are whatever memory holds.

    For modules all of whose weights are set right after: random numbers for millions of them take longer than reading a
    checkpoint. On the meta device they would cost nothing but to import PyTorch's compiler, which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))
