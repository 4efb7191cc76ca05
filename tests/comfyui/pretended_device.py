"""A device that is not there: tensors that say they are on ``cuda:0`` and compute on the CPU.

With :class:`PretendedCuda` active, a model moves to "cuda", runs there and gives the numbers of the CPU, on a machine
and with a PyTorch that know no GPU. What a GPU would refuse is refused: an operator on tensors of two devices, a
generator of another device, and ``numpy()`` without ``cpu()``. PyTorch's FakeTensorMode judges devices as strictly
(test_pretended_cuda.py compares both) but has no values, and samplers, schedulers and checks of this pack and of the
host decide by values.

Not pretended: kernels, memory and its limits, streams, pinned memory, and rounding of a GPU.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")

_INDEXED = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}
"""Operators that accept indices of the CPU for a tensor of any device."""


class PretendedTensor(Tensor):
    """A tensor that says it is on :data:`CUDA`; ``held``, on the CPU, has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> PretendedTensor:
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=CUDA,
            requires_grad=real.requires_grad,
        )
        made.held = real
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.detach().clone()

    # PyTorch's own indexing and copying switch to the device first, which a PyTorch built without CUDA cannot.
    def copy_(self, source: Tensor, non_blocking: bool = False) -> PretendedTensor:
        self.held.copy_(_held(source))
        return self

    def __getitem__(self, index: Any) -> PretendedTensor:
        return PretendedTensor(self.held[tree_map(_held, index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, Tensor):
            self[index].copy_(value) if _is_a_view(index) else self._put(index, value)
        else:
            self.held[tree_map(_held, index)] = value

    def _put(self, index: Any, value: Tensor) -> None:
        if value.device.type == "cpu" and value.ndim > 0:
            raise RuntimeError(f"index_put_ got tensors on two devices: values on cpu for a tensor on {CUDA}")
        self.held[tree_map(_held, index)] = _held(value)

    def tolist(self) -> Any:
        return self.held.tolist()

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        raise NotImplementedError("a pretended tensor cannot be given other data; replace the tensor")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class PretendedCuda(TorchDispatchMode):
    """While active, ``cuda`` is a device on which tensors can be made and to which they can be moved."""

    def __enter__(self) -> PretendedCuda:
        # What PyTorch and the host ask the driver for, which raises where there is none.
        self._driver = mock.patch.multiple(
            torch.cuda,
            _lazy_init=lambda: None,
            current_device=lambda: 0,
            set_device=lambda _: None,
            synchronize=lambda *_: None,
        )
        self._driver.start()
        # As FakeTensorMode does: no current device to switch to, and torch.tensor moves its result as an operator.
        torch._C._ensureCUDADeviceGuardSet()
        self._lifts_cpu_only = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        torch._C._set_only_lift_cpu_tensors(self._lifts_cpu_only)
        self._driver.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendedTensor) else value


def _is_a_view(index: Any) -> bool:
    """Whether an index selects without copying: numbers, slices, None and Ellipsis."""
    return not any(isinstance(x, (Tensor, list)) for x in (index if isinstance(index, tuple) else (index,)))


def _given(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of an operator by name."""
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _device_of(func: Any, given: dict[str, Any]) -> torch.device:
    """The device of an operator's results; raises RuntimeError where a GPU would."""
    if given.get("device") is not None:
        return torch.device(given["device"])
    if func is torch.ops.aten.to.other:
        return given["other"].device
    if func is torch.ops.aten.copy_.default:
        return given["self"].device
    if func in _INDEXED:
        own = given["self"].device
        if any(isinstance(x, PretendedTensor) and own.type == "cpu" for x in given["indices"]):
            raise RuntimeError(f"{func} got tensors on two devices: indices on {CUDA} for a tensor on {own}")
        return own
    tensors = [x for x in tree_leaves(given) if isinstance(x, Tensor)]
    # A single number of the CPU may be combined with tensors of any device.
    devices = {x.device.type for x in tensors if x.ndim > 0 or x.device.type != "cpu"}
    if len(devices) > 1:
        shapes = ", ".join(f"{tuple(x.shape)} on {x.device}" for x in tensors)
        raise RuntimeError(f"{func} got tensors on two devices: {shapes}")
    return torch.device(devices.pop() if devices else "cpu")


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = _given(func, args, kwargs)
    if func is torch.ops.aten._has_compatible_shallow_copy_type.default:
        # Asked by Module.to, which then makes new parameters instead of giving the old ones other data.
        return not any(isinstance(x, PretendedTensor) for x in args)
    device = _device_of(func, given)
    generator = given.get("generator")
    if generator is not None and generator.device.type != device.type:
        raise RuntimeError(f"{func} on {device} got a generator of {generator.device}")
    tensors = [x for x in tree_leaves(given) if isinstance(x, Tensor)]
    moved = any(x.device.type != device.type for x in tensors)

    def held(value: Any) -> Any:
        return torch.device("cpu") if isinstance(value, torch.device) else _held(value)

    made = func(**{name: tree_map(held, value) for name, value in given.items() if name != "pin_memory"})
    # Operators that write into an argument, or have nothing to do, return the argument.
    own = {id(held(x)): x for x in tensors if x.device.type == device.type}

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in own and own[id(value)].shape == value.shape:
            return own[id(value)]
        if moved:
            # Memory of two devices is never shared.
            value = value.clone()
        return PretendedTensor(value) if device.type == CUDA.type else value

    return tree_map(placed, made)
