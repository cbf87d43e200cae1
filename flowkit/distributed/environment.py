"""The one place that builds an `Accelerator`, and what must be told to it so that several processes without a GPU work."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from flowkit.distributed.agreement import Agreement
from flowkit.errors import PeerLost, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from flowkit.recipe import Recipe

USE_FSDP = "ACCELERATE_USE_FSDP"
OTHER_WAYS = {  # of training on several devices, by what `accelerate launch` sets for them
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
FSDP_LEFT_OUT = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing",
}


# How torch's collectives and its store say that the other end of a connection is gone.
GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "failed to recv",
    "remote process exited",
)

WAITED = "Timed out waiting"  # how gloo says that the other end does not answer


@dataclass(frozen=True)
class Environment:
    accelerator: Accelerator
    notices: tuple[str, ...]  # what the user should read once
    agreement: Agreement  # among the processes
    sharded: bool = False  # the model is split among the processes (FSDP2), not copied to each

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        return self.accelerator.num_processes

    def device_name(self) -> str:
        """ "NVIDIA H100 80GB HBM3", "cpu (2 threads)"."""
        device = self.accelerator.device
        if device.type == "cuda":
            return torch.cuda.get_device_name(device)
        if device.type == "cpu":
            threads = torch.get_num_threads()
            return f"cpu ({threads} thread{'s' if threads > 1 else ''})"
        return device.type


@contextlib.contextmanager
def joined(recipe: Recipe) -> Iterator[Environment]:
    """`start`, and `leave` at the end. Raises PeerLost where a process that this one has to wait for is gone or silent."""
    environment, stays = start(recipe), False
    try:
        yield environment
    except Exception as error:
        # What went wrong here is printed before the connections end, and with them the other processes.
        stays = environment.world_size > 1
        this = f"process {environment.rank} of {environment.world_size}"
        if stays and isinstance(error, RuntimeError) and any(words in str(error) for words in GONE):
            raise PeerLost(
                f"{this}: another process of this run has ended, so this one ends, too; what the other one said tells why. "
                "Go on with --resume"
            ) from None
        if stays and isinstance(error, RuntimeError) and WAITED in str(error):
            raise PeerLost(
                f"{this}: another process of this run has not answered for train.timeout_hours = "
                f"{recipe.train.timeout_hours:g}, so this one ends. If it was busy drawing or decoding samples, raise that "
                "or lower sample.num_samples, and continue with --resume"
            ) from None
        raise
    finally:
        if not stays:
            leave(environment)


def start(recipe: Recipe) -> Environment:
    """Join the other processes, if the launcher started any. The recipe decides precision and compilation.

    Raises UserError: fp16 without a GPU; a device that is not there; ranks that cannot see each other; a way of training on
    several that is neither plain data parallelism nor FSDP2.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs

    _choose_interface()
    precision, notices = recipe.train.precision, []
    sharded = _asks_for_sharding(notices)
    gpu = torch.accelerator.current_accelerator(check_available=True)
    has_gpu = gpu is not None and gpu.type != "mps"  # which has no float64, and the meters sum in it
    use_cpu = recipe.run.device == "cpu" or not has_gpu
    if recipe.run.device == "cuda" and not torch.cuda.is_available():
        raise UserError('run.device: is "cuda", and torch sees no CUDA device here; use "auto" or "cpu"')
    if precision == "fp16" and use_cpu:
        raise UserError('train.precision: "fp16" needs a GPU, and this runs on the CPU; use "bf16" or "fp32"')
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if launcher and launcher.replace("no", "fp32") != precision:
        notices.append(f'precision: the launcher says "{launcher}", the recipe "{precision}"; the recipe decides')
    dynamo = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if dynamo != "no" and not recipe.train.compile:
        notices.append(f'compile: the launcher says dynamo backend "{dynamo}"; the recipe decides (train.compile)')
    if recipe.run.deterministic:
        # cuBLAS reads this when its first handle is made; without it, deterministic algorithms raise on CUDA.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    elif torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32: three more bits than bf16, several times fp32's speed
    # NCCL's own ten minutes would end a run whose first process draws or decodes for longer than that.
    timeout = timedelta(hours=recipe.train.timeout_hours)
    # With no GPU and cpu=False every rank believes that it is alone (accelerate 1.15), so say so. Of FSDP accelerate hears
    # nothing: it would leave it out without a GPU, and with one split the model only together with its own optimizer.
    with _without(USE_FSDP):
        accelerator = Accelerator(
            cpu=use_cpu,
            mixed_precision="no" if precision == "fp32" else precision,
            dynamo_backend="no",  # the model is compiled in place, before it is wrapped: its keys stay plain
            # One step to accelerate is one update to us: the loop divides by the accumulation steps itself, so neither
            # ACCELERATE_GRADIENT_ACCUMULATION_STEPS nor the end of a loader can change the scale of a gradient.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=timeout),
            ],
        )
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != expected:
        raise UserError(
            f"the launcher started {expected} processes and accelerate joined {accelerator.num_processes}; without a GPU, "
            "launch with accelerate_configs/cpu_two_processes.yaml or set ACCELERATE_USE_CPU=true"
        )
    kind = str(accelerator.distributed_type.value)
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise UserError(
            f"the launcher's configuration asks for {kind}; flowkit trains with plain data parallelism or FSDP2: use one of "
            "accelerate_configs/"
        )
    if sharded:
        split = f"each of the {expected} processes holds its part of the model"
        notices.append(f"FSDP: {split if expected > 1 else 'there is one process, so the model stays whole'}")
    return Environment(accelerator, tuple(notices), Agreement(timeout), sharded=sharded and expected > 1)


def _asks_for_sharding(notices: list[str]) -> bool:
    """Whether the launcher's environment asks for FSDP2. Read here, for without a GPU accelerate would leave it out silently.

    Raises UserError for its first version, and for what is neither data parallelism nor FSDP.
    """
    for variable, name in OTHER_WAYS.items():
        if _is_true(variable):
            raise UserError(
                f"the launcher's configuration asks for {name}; flowkit trains with plain data parallelism or FSDP2: use one "
                "of accelerate_configs/"
            )
    if not _is_true(USE_FSDP):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            f"fsdp_version: the launcher's configuration says {version}, and flowkit splits models by FSDP2; set "
            "fsdp_version: 2 in it, as accelerate_configs/fsdp.yaml does"
        )
    for variable, setting in FSDP_LEFT_OUT.items():
        if _is_true(variable):
            notices.append(f"FSDP: the launcher says {setting}: true, which flowkit does not do; it is left out")
    return True


def _choose_interface() -> None:
    """Tell gloo the interface by which this machine reaches the first one, unless the user has named one.

    By itself it takes the one that the host's own name stands for; on many systems that is the loopback, which no other
    machine can connect to.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    first = os.environ.get("MASTER_ADDR")
    if not several or not first or GLOO_INTERFACE in os.environ:
        return
    name = _interface_towards(first)
    if name is not None:
        os.environ[GLOO_INTERFACE] = name


def _interface_towards(host: str) -> str | None:
    """The name of the interface that a packet to `host` leaves by; None where that cannot be told, or is the loopback."""
    import psutil  # which accelerate brings

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing: a route is looked up
            mine = probe.getsockname()[0]
    except OSError:
        return None
    if mine.startswith("127.") or mine == "::1":
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, found in interfaces if any(one.address.split("%")[0] == mine for one in found)), None)


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


@contextlib.contextmanager
def _without(variable: str) -> Iterator[None]:
    """Hide an environment variable for a while."""
    value = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[variable] = value


def leave(environment: Environment) -> None:
    """Destroy the process group and forget accelerate's singletons, so that a second run in this process may differ."""
    from accelerate.state import AcceleratorState

    torch.use_deterministic_algorithms(False)
    environment.accelerator.end_training()
    environment.accelerator.free_memory()
    AcceleratorState._reset_state(reset_partial_state=True)
