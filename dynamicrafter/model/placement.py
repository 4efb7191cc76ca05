"""Where the weights of a model's networks are: on the device only while they work, whole, by layers or by blocks.

The weights stay in main memory, and what is on the device are copies, so that nothing is copied back. A network arrives
when it is called and leaves when another one is, or with :meth:`Placement.leave`. Results do not depend on any of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

STREAMED_FROM = 2**14
"""Bytes below which a layer stays on the device while its network works, as beginning a copy takes longer than it."""
_SLOTS = 2
"""Places for streamed layers: one for the layer that runs, one for the next."""
_ALIGNMENT = 256
"""Of tensors in a buffer, in bytes; what kernels may expect of memory."""


class Placement:
    """Moves networks to a device when they are called, one at a time."""

    def __init__(
        self,
        networks: Iterable[nn.Module],
        device: torch.device,
        *,
        streamed: bool = False,
        smallest: int = STREAMED_FROM,
    ) -> None:
        """Take over ``networks``, whose weights are on the CPU and are not trained.

        ``streamed``: layers of at least ``smallest`` bytes are copied to the device one by one, each while the one
        before it runs, and all others when their network is called.
        """
        self.streamed = streamed
        self._working: _Stay | None = None
        self._stays: dict[int, _Stay] = {}
        for network in networks:
            stay = _Stay(network, device, list(streamed_layers(network, smallest)) if streamed else [])
            # A network may be entered by its own name or, as an autoencoder is, by one of its parts. Networks that work
            # in turn are the parts of one.
            for entrance in (network, *network.children()):
                entrance.register_forward_pre_hook(partial(self._enter, stay))
                self._stays[id(entrance)] = stay
            stay.watch()

    def enter(self, network: nn.Module) -> None:
        """Have a network, or one of its parts, arrive that is about to be used in another way than by calling it."""
        self._enter(self._stays[id(network)])

    def _enter(self, stay: _Stay, *_: object) -> None:
        if self._working is not stay:
            self.leave()
            self._working = stay
            try:
                stay.arrive()
            except BaseException:
                self.leave()
                raise

    def leave(self) -> None:
        """Release what the network that worked last has on the device."""
        if self._working is not None:
            self._working.leave()
            self._working = None


def streamed_layers(network: nn.Module, smallest: int = STREAMED_FROM) -> Iterator[nn.Module]:
    """The parts of a network that are streamed: its layers with weights of at least ``smallest`` bytes."""
    if _is_layer(network):
        if _size(_tensors(network)) >= smallest:
            yield network
    else:
        for part in network.children():
            yield from streamed_layers(part, smallest)


class BlockSwap:
    """Keeps the frozen weights of a network's blocks in main memory while the network is trained.

    A block's weights are copied to the device for its forward pass and again for its backward pass, each while the
    block before it works. Its activations must be recomputed in the backward pass (activation checkpointing), or
    autograd would need the copies of its forward pass.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        """Take over the frozen weights of ``blocks``, parts of ``network``, whose weights are all on the CPU.

        Everything else of ``network`` is moved to ``device``, as new parameters, which an optimizer must be given.
        """
        self._stream = _Stream([(block, _frozen(block)) for block in blocks], device)
        self._open: _Layer | None = None
        kept = {id(tensor) for layer in self._stream.layers for _, _, tensor in layer.tensors}

        for owner, name, tensor in _tensors(network):
            if id(tensor) not in kept:
                _put(owner, name, tensor.detach().to(device), tensor.requires_grad)
        self._stream.open()
        for layer in self._stream.layers:
            layer.module.register_forward_pre_hook(partial(self._begin, layer))
            layer.module.register_forward_hook(partial(self._end, layer), always_call=True)

    @torch.no_grad()
    def _begin(self, layer: _Layer, *_: object) -> None:
        # A block is still here after its backward pass, whose end nothing tells.
        if self._open is not None:
            self._stream.end(self._open)
        self._open = layer
        self._stream.begin(layer)

    def _end(self, layer: _Layer, _module: nn.Module, _arguments: object, out: object) -> None:
        self._stream.end(layer)
        self._open = None
        if isinstance(out, Tensor) and out.requires_grad:
            # Called before anything of the block's backward pass.
            cast(Any, out).register_hook(partial(self._begin, layer))


def weights_on_device(network: nn.Module, passing: Iterable[nn.Module] = (), frozen: bool = False) -> int:
    """Bytes that a network's weights take on the device while it works.

    Those of the layers or blocks ``passing`` are copied there one after the other; with ``frozen``, only those that are
    not trained.
    """
    parts = [_frozen(part) if frozen else _tensors(part) for part in passing]
    away = {id(tensor) for part in parts for _, _, tensor in part}
    resident = sum(tensor.nbytes for _, _, tensor in _tensors(network) if id(tensor) not in away)
    return resident + _SLOTS * max(map(_size, parts), default=0)


def _is_layer(module: nn.Module) -> bool:
    """Whether a module's weights are used only when it is called; attention reads those of its parts."""
    return isinstance(module, nn.MultiheadAttention) or not any(True for _ in module.children())


_Named = tuple[nn.Module, str, Tensor]
"""A tensor, and the module and the name under which it is found."""


def _tensors(module: nn.Module) -> list[_Named]:
    found: list[_Named] = []
    for owner in module.modules():
        for named in (owner.named_parameters(recurse=False), owner.named_buffers(recurse=False)):
            found += [(owner, name, tensor) for name, tensor in named]
    return found


def _frozen(module: nn.Module) -> list[_Named]:
    return [each for each in _tensors(module) if not each[2].requires_grad]


def _size(tensors: list[_Named]) -> int:
    """Bytes of a buffer for them."""
    return sum(-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for _, _, tensor in tensors)


def _put(owner: nn.Module, name: str, value: Tensor, trained: bool = False) -> None:
    is_parameter = name in owner._parameters  # pyright: ignore[reportPrivateUsage]
    setattr(owner, name, nn.Parameter(value, requires_grad=trained) if is_parameter else value)


class _Stay:
    """One network: what of it is on the device while it works, and its streamed layers."""

    def __init__(self, network: nn.Module, device: torch.device, layers: list[nn.Module]) -> None:
        self._device = device
        self._stream = _Stream([(layer, _tensors(layer)) for layer in layers], device)
        passing = {id(tensor) for layer in self._stream.layers for _, _, tensor in layer.tensors}
        self._resident = [each for each in _tensors(network) if id(each[2]) not in passing]

    def watch(self) -> None:
        """Have the streamed layers arrive when they are called."""
        for layer in self._stream.layers:
            layer.module.register_forward_pre_hook(partial(self._begin, layer))
            layer.module.register_forward_hook(partial(self._end, layer), always_call=True)

    @torch.inference_mode()
    def arrive(self) -> None:
        for owner, name, tensor in self._resident:
            _put(owner, name, tensor.to(self._device))
        self._stream.open()

    def leave(self) -> None:
        for owner, name, tensor in self._resident:
            setattr(owner, name, tensor)
        self._stream.close()

    @torch.inference_mode()
    def _begin(self, layer: _Layer, *_: object) -> None:
        self._stream.begin(layer)

    def _end(self, layer: _Layer, *_: object) -> None:
        self._stream.end(layer)


class _Layer:
    """A streamed layer or block, whose ``passing`` tensors lie in one stretch of main memory."""

    def __init__(self, module: nn.Module, passing: list[_Named], pinned: bool) -> None:
        self.module = module
        self.tensors: list[_Named] = []
        self.begins: list[int] = []
        place = passing[0][2].device
        self.packed = torch.empty(_size(passing), dtype=torch.uint8, device=place, pin_memory=pinned)
        begin = 0
        for each in passing:
            owner, name, tensor = each
            part = self.packed[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            part.copy_(tensor)
            _put(owner, name, part)
            self.tensors.append((owner, name, cast(Tensor, getattr(owner, name))))
            self.begins.append(begin)
            begin += _size([each])


class _Stream:
    """Layers that share two places on a device: one works while the next is copied."""

    def __init__(self, parts: list[tuple[nn.Module, list[_Named]]], device: torch.device) -> None:
        """``parts``: each layer, and those of its tensors that are not on the device otherwise."""
        self._device = device
        self._copies = _Copies(device)
        self.layers = [_Layer(module, passing, self._copies.pins) for module, passing in parts]
        self._slots: list[_Slot] = []
        self._order: list[_Layer] = []
        self._place = 0

    def open(self) -> None:
        """Reserve the places."""
        largest = max((len(layer.packed) for layer in self.layers), default=0)
        if largest:
            buffers = [torch.empty(largest, dtype=torch.uint8, device=self._device) for _ in range(_SLOTS)]
            self._slots = [_Slot(buffer) for buffer in buffers]

    def close(self) -> None:
        """Release the places."""
        if self._slots:
            self._copies.finish()
        self._slots = []

    def begin(self, layer: _Layer) -> None:
        """Put a layer's tensors on the device, and begin to copy those of the next one."""
        slot = self._slot_of(layer)
        if slot is None:
            slot = self._slots[0]
            self._copies.fill(slot, layer)
        # The slot used last is the last one, so that the other is filled next.
        self._slots.remove(slot)
        self._slots.append(slot)
        self._copies.await_filled(slot)
        for (owner, name, tensor), begin in zip(layer.tensors, layer.begins, strict=True):
            part = slot.buffer[begin : begin + tensor.nbytes]
            _put(owner, name, part.view(tensor.dtype).view(tensor.shape))
        following = self._following(layer)
        if following is not None and self._slot_of(following) is None:
            self._copies.fill(self._slots[0], following)

    def end(self, layer: _Layer) -> None:
        """Give a layer its tensors in main memory back; its place is free after the work so far."""
        for owner, name, tensor in layer.tensors:
            setattr(owner, name, tensor)
        slot = self._slot_of(layer)
        if slot is not None:
            self._copies.mark_used(slot)

    def _slot_of(self, layer: _Layer) -> _Slot | None:
        return next((slot for slot in self._slots if slot.layer is layer), None)

    def _following(self, layer: _Layer) -> _Layer | None:
        """The layer that came after this one the last time, as networks call theirs in the same order each time."""
        order = self._order
        if self._place and order[self._place - 1] is layer:
            # Where a backward pass begins or ends, a block comes twice.
            return order[self._place % len(order)]
        if self._place == len(order) and order[:1] == [layer]:
            self._place = 0
        known = self._place < len(order) and order[self._place] is layer
        if not known:
            order[self._place :] = [layer]
        self._place += 1
        return order[self._place % len(order)] if known else None


@dataclass(eq=False)
class _Slot:
    """Memory of the device for one streamed layer at a time."""

    buffer: Tensor
    layer: _Layer | None = None
    filled: Any = None
    """The event at the end of the last copy into it."""
    used: Any = None
    """The event at the end of the last work with it."""


class _Copies:
    """Copies to a device: on a stream of their own where it has streams, otherwise in the order of its work.

    All waiting is the device's; the program only waits in :meth:`finish`.
    """

    def __init__(self, device: torch.device) -> None:
        self._backend = _backend_with_streams(device)
        self._device = device
        self._stream = None if self._backend is None else self._backend.Stream(device)

    @property
    def pins(self) -> bool:
        """Whether copies need memory that the system does not move."""
        return self._stream is not None

    def fill(self, slot: _Slot, layer: _Layer) -> None:
        """Begin to copy a layer into a slot, after the work that used the slot."""
        slot.layer = None
        into = slot.buffer[: len(layer.packed)]
        if self._backend is None or self._stream is None:
            into.copy_(layer.packed)
            slot.layer = layer
            return
        if slot.used is None:
            # What the memory was before is known to the current stream.
            self._stream.wait_stream(self._backend.current_stream(self._device))
        else:
            self._stream.wait_event(slot.used)
        beside: AbstractContextManager[Any] = self._backend.stream(self._stream)
        with beside:
            into.copy_(layer.packed, non_blocking=True)
        slot.filled = self._stream.record_event()
        slot.layer = layer

    def await_filled(self, slot: _Slot) -> None:
        """Have the work that follows wait until the slot is filled."""
        if self._backend is not None and slot.filled is not None:
            self._backend.current_stream(self._device).wait_event(slot.filled)

    def mark_used(self, slot: _Slot) -> None:
        """Note that the work so far uses the slot."""
        if self._backend is not None:
            slot.used = self._backend.current_stream(self._device).record_event()

    def finish(self) -> None:
        """Wait until nothing is copied any more, so that the slots can be released."""
        if self._stream is not None:
            self._stream.synchronize()


def _backend_with_streams(device: torch.device) -> Any:
    """PyTorch's module for the device's kind if it has streams (CUDA, ROCm, XPU), or None (the CPU, MPS)."""
    backend: Any = getattr(torch, device.type, None)
    return backend if hasattr(backend, "Stream") and backend.is_available() and device.type != "cpu" else None
