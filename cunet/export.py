"""A trained network outside this library: as a graph of torch.export, and as an ONNX file.

    network, card = checkpoints.load(checkpoints.released("mnist", "cunet", "laptop"))
    file = export.to_onnx(network, "cunet.onnx")
    images = sampling.sample(export.OnnxNetwork(file), 16, Diffusion(**card["diffusion"]))

The graph takes any number of images of the side that the network was made for: `sample`, float32 (B, C, H,
W), and `timestep`, int64 (B,), 0 ... 999, and gives `prediction`, like sample. Range and shape are checked by
the network's own code, which a graph does not hold, so nothing refuses a step of 1000 there. The steps of the
ODE solver are unrolled: a graph has the solver and the steps that its network had when it was exported.

Needs the packages of the extra `onnx` for all but `to_program`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from . import folders
from .cost import Timings, time_interleaved
from .errors import InputError
from .sampling import evaluating

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUTS = ("sample", "timestep")


def to_program(network: nn.Module) -> torch.export.ExportedProgram:
    """The network as a graph of torch operators; `torch.export.save` and `load` keep it in a file.

    network: of `cunet.models`, in any mode; the graph is that of eval mode. `program.module()` is called as
    the network is, with timesteps as a tensor (B,).
    """
    side = network.image_size
    with evaluating(network), torch.no_grad():
        example = (torch.zeros(2, network.channels, side, side), torch.zeros(2, dtype=torch.int64))
        any_number = torch.export.Dim("batch", min=1)
        return torch.export.export(network, example, dynamic_shapes=dict.fromkeys(INPUTS, {0: any_number}))


def to_onnx(
    network: nn.Module, path: str | Path, program: torch.export.ExportedProgram | None = None
) -> Path:
    """Write the network as ONNX, weights inside, and return the path; its folder is made if needed.

    Takes seconds to a minute.

    program: the network's graph, where `to_program` has made it already.

    The file carries the network's name, size, channels and image size as metadata, which `OnnxNetwork` reads.
    Raises InputError if a package is missing or the file cannot be written.
    """
    require()
    path = Path(path)
    folders.check_writable(path.parent)
    with _quiet():
        program = torch.onnx.export(
            program or to_program(network),
            input_names=INPUTS,
            output_names=("prediction",),
            dynamo=True,
            verbose=False,
        )
    for key in ("name", "size", "channels", "image_size"):
        program.model.metadata_props[key] = str(getattr(network, key))
    try:
        with folders.replacing(path) as draft:
            program.save(draft, external_data=False)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}. Choose another folder.") from error
    return path


class OnnxNetwork:
    """An ONNX file of `to_onnx`, run by onnxruntime on the CPU, called as the network that it came from.

    path: the file. threads: of a call, by default as many as torch takes.

    It has the attributes name, size, channels and image_size, so it serves wherever a network is only asked:
    `cunet.sampling.sample`, `cunet.denoising`. There is no gradient.

    Raises InputError if a package is missing, there is no such file, or it is none of `to_onnx`.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        require()
        import onnxruntime

        path = Path(path)
        if not path.is_file():
            raise InputError(f"There is no file {path}: write it with cunet.export.to_onnx.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            found = self._session.get_modelmeta().custom_metadata_map
            self.name, self.size = found["name"], found["size"]
            self.channels, self.image_size = int(found["channels"]), int(found["image_size"])
        except Exception as error:  # onnxruntime has an exception of its own for each kind of damage
            raise InputError(
                f"{path} is no network of cunet.export.to_onnx, or is damaged: {error}. Write it again."
            ) from error

    def __call__(self, sample: Tensor, timestep: int | Tensor, *ignored) -> Tensor:
        """sample: float32 (B, channels, side, side); timestep: 0 ... 999, one or (B,). Returns alike."""
        side = self.image_size
        if sample.shape[1:] != (self.channels, side, side) or sample.dtype != torch.float32:
            raise InputError(
                f"The images are {sample.dtype}, {tuple(sample.shape)}, but this file takes float32, "
                f"(B, {self.channels}, {side}, {side})."
            )
        t = torch.as_tensor(timestep, dtype=torch.int64).expand(len(sample))
        given = {"sample": sample.numpy(force=True), "timestep": t.numpy(force=True)}
        return torch.from_numpy(self._session.run(None, given)[0]).to(sample.device)


@torch.no_grad()
def gap(network: nn.Module, other: Callable[[Tensor, Tensor], Tensor], seed: int = 0) -> float:
    """The largest difference between the answers of a network and of a graph of it, to three noisy images at
    an early, a middle and a late step."""
    side = network.image_size
    x = torch.randn(3, network.channels, side, side, generator=torch.Generator().manual_seed(seed))
    t = torch.tensor([5, 500, 995])
    return float((other(x, t) - network(x, t)).abs().max())


def timed(network: nn.Module, stand_in: OnnxNetwork, images: int, rounds: int, seed: int = 0) -> Timings:
    """Seconds of a call on so many images, of the network ("torch") and of its file ("onnxruntime"), in
    turn (`cunet.cost.time_interleaved`)."""
    side = network.image_size
    x, t = torch.zeros(images, network.channels, side, side), torch.full((images,), 500)
    calls = {"torch": torch.no_grad()(lambda: network(x, t)), "onnxruntime": lambda: stand_in(x, t)}
    return time_interleaved(calls, repeats=rounds, seed=seed)


def require() -> None:
    """Raise InputError unless the packages of the extra `onnx` are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"The package {missing[0]} is not installed, and an ONNX file needs it: `pip install "
            f"'cunet[onnx]'`, or `pip install {' '.join(missing)}`."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within, the exporter says nothing: its warnings are about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
