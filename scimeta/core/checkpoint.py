"""Checkpoints: tensors and JSON in one safetensors file, written whole or not at all, and never unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scimeta.core.learners import MetaLearner
from scimeta.core.rules import Meta
from scimeta.files import STATE, Format, check_path, write_atomically

_FORMAT = "scimeta checkpoint 1"


def write_state(path: str | Path, state: Any, format: Format | None = None) -> Path:
    """Return ``path`` after a nest of dictionaries, lists, tensors, numbers and strings has been written to it.

    Numbers come back exactly; tuples come back as lists.

    Args:
        path: the file, replaced if it is there.
        state: the nest.
        format: ``STATE`` refuses suffixes of other formats; None takes any.

    Raises:
        TypeError: the nest holds something else.
        FileNotFoundError: the folder does not exist.
        OSError: the path cannot be written otherwise.
        ValueError: it has the suffix of another format.
    """
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_outline(state, "state", tensors))
    facts = {"format": _FORMAT, "outline": outline, "sha256": _digest(outline, tensors)}
    return write_atomically(path, lambda temporary: save_file(tensors, temporary, facts), format)


def read_state(path: str | Path) -> Any:
    """Return what :func:`write_state` wrote, with tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        ValueError: the file is truncated or damaged, or no checkpoint of this kind.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a checkpoint")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a pipe or a device, not a checkpoint")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or no checkpoint: {error}") from error
    if facts.get("format") != _FORMAT:
        raise ValueError(f"{path} is a safetensors file, but no scimeta checkpoint of this version")
    if facts.get("sha256") != _digest(facts.get("outline", ""), tensors):
        raise ValueError(f"{path} is damaged: its content does not have the checksum that was written with it")
    return _filled(json.loads(facts["outline"]), tensors.__getitem__)


def check_checkpoint(path: str | Path) -> None:
    """Raise OSError or ValueError, before any work, if a run could not be kept in the file and taken up from it."""
    check_path(path, STATE, again=True)


def save_meta(learner: MetaLearner, path: str | Path) -> Path:
    """Return ``path`` after the learner's initialisation and rule parameters have been written to it."""
    return write_state(path, {"learner": describe(learner), "best": learner.meta._asdict()}, STATE)


def load_meta(learner: MetaLearner, path: str | Path) -> MetaLearner:
    """Return the learner with the initialisation and rule parameters of a file, on the devices that it has now.

    Args:
        learner: the same algorithm on parameters of the same names and shapes.
        path: written by ``Trained.save``, or a checkpoint of ``meta_train`` (of which the best state is taken).

    Raises:
        FileNotFoundError, ValueError: as :func:`read_state`, or the file belongs to another model.
    """
    state = read_state(path)
    if not has_parts(state, "best", "learner"):
        raise ValueError(f"{path} holds no meta-learner")
    compare(describe(learner), state["learner"], path)
    return learner._replace(meta=place(state["best"], learner.meta))


def describe(learner: MetaLearner) -> dict[str, Any]:
    """Return what must be the same for a checkpoint to fit the learner."""
    shapes = {
        f"{part}.{name}": [str(value.dtype).removeprefix("torch."), *value.shape]
        for part in Meta._fields
        for name, value in getattr(learner.meta, part).items()
    }
    inner = {"inner steps": learner.adapt.steps, "fast": list(learner.adapt.fast)}
    if learner.truncation is not None:
        inner |= learner.truncation._asdict()
    return {"algorithm": learner.name, **inner, **shapes}


def has_parts(state: Any, *names: str) -> bool:
    """Whether a state is a dictionary with these names, each a dictionary itself."""
    return isinstance(state, dict) and all(isinstance(state.get(name), dict) for name in names)


def compare(now: dict[str, Any], then: dict[str, Any], path: str | Path) -> None:
    """Raise ValueError that lists how two descriptions differ."""
    names = [name for name in {**then, **now} if now.get(name) != then.get(name)]
    if names:
        listed = "; ".join(
            f"{name} was {then.get(name, 'not there')}, is {now.get(name, 'not there')}" for name in names[:6]
        )
        more = f"; and {len(names) - 6} more" if len(names) > 6 else ""
        raise ValueError(
            f"{path} is a checkpoint of another run: {listed}{more}. Build the learner and the call as they were, "
            "or name another file"
        )


def place(parts: dict[str, dict[str, Tensor]], like: Meta) -> Meta:
    """Return a Meta of stored tensors, each on the device and in the order of the tensor that it replaces."""
    return Meta(
        *(
            {name: parts[part][name].to(old.device) for name, old in getattr(like, part).items()}
            for part in Meta._fields
        )
    )


def _digest(outline: str, tensors: dict[str, Tensor]) -> str:
    """Return a checksum of everything in a checkpoint."""
    total = hashlib.sha256(outline.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _outline(nest: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return the nest as JSON, in which tensors are names; collect the tensors."""
    if isinstance(nest, Tensor):
        tensors[name] = nest.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(nest, dict):  # keys may be integers, which JSON would turn into strings
        return {"dict": [[key, _outline(value, f"{name}.{key}", tensors)] for key, value in nest.items()]}
    if isinstance(nest, (list, tuple)):
        return {"list": [_outline(value, f"{name}.{index}", tensors) for index, value in enumerate(nest)]}
    if nest is None or isinstance(nest, (bool, int, float, str)):
        return nest
    raise TypeError(f"a checkpoint cannot hold {name}, a {type(nest).__name__}")


def _filled(outline: Any, tensor: Any) -> Any:
    if isinstance(outline, dict):
        (kind, content), *_ = outline.items()
        if kind == "tensor":
            return tensor(content)
        if kind == "dict":
            return {key: _filled(value, tensor) for key, value in content}
        return [_filled(value, tensor) for value in content]
    return outline


def random_state(generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generator and of torch's own random numbers on the CPU and the device."""
    states = {"generator": generator.get_state(), "cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_state(states: dict[str, Tensor], generator: torch.Generator, device: torch.device) -> None:
    generator.set_state(states["generator"])
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
