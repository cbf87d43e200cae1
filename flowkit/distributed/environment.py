"""Build the `Accelerator`, the only place that does, with what it needs for several processes without a GPU."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed

from flowkit.device import repeatable_products, tf32_products
from flowkit.distributed.agreement import Agreement
from flowkit.errors import PeerLost, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from flowkit.recipe import Recipe

USE_FSDP = "ACCELERATE_USE_FSDP"
OTHER_WAYS = {  # unsupported ways to train on several devices, by the variable that `accelerate launch` sets
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
FSDP_LEFT_OUT = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing",
}


# How torch's collectives and store report a closed connection.
GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "failed to recv",
    "remote process exited",
)

WAITED = "Timed out waiting"  # how gloo reports a timeout


@dataclass(frozen=True)
class Environment:
    accelerator: Accelerator
    notices: tuple[str, ...]  # shown to the user once
    agreement: Agreement  # of the processes on when to stop
    sharded: bool = False  # the model is split among the processes (FSDP2)
    settings: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # torch's, restored by closing it

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        return self.accelerator.num_processes

    def device_name(self) -> str:
        """Return "NVIDIA H100 80GB HBM3" or "cpu (2 threads)"."""
        device = self.accelerator.device
        if device.type == "cuda":
            return torch.cuda.get_device_name(device)
        if device.type == "cpu":
            threads = torch.get_num_threads()
            return f"cpu ({threads} thread{'s' if threads > 1 else ''})"
        return device.type


@contextlib.contextmanager
def joined(recipe: Recipe) -> Iterator[Environment]:
    """Call `start`, and `leave` at the end. Raises PeerLost if another process is gone or does not answer."""
    environment, stays = start(recipe), False
    try:
        yield environment
    except Exception as error:
        # Print the error here before the connections close and take the other processes down.
        stays = environment.world_size > 1
        this = f"process {environment.rank} of {environment.world_size}"
        if stays and isinstance(error, RuntimeError) and any(words in str(error) for words in GONE):
            _abandon_collectives()
            raise PeerLost(
                f"{this}: another process of this run has ended, so this one ends too; see its output for the cause. "
                "Continue with --resume"
            ) from None
        if stays and isinstance(error, RuntimeError) and WAITED in str(error):
            _abandon_collectives()
            raise PeerLost(
                f"{this}: another process of this run has not answered for train.timeout_hours = "
                f"{recipe.train.timeout_hours:g}, so this one ends. If it was busy sampling or decoding, raise that "
                "or lower sample.num_samples, and continue with --resume"
            ) from None
        raise
    finally:
        if not stays:
            leave(environment)


def start(recipe: Recipe) -> Environment:
    """Join the other processes, if a launcher started any. The recipe decides precision and compilation.

    Raises UserError for fp16 without a GPU, a device that is not available, ranks that cannot see each other, or a way of
    distributed training other than data parallelism and FSDP2.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs

    _choose_interface()
    precision, notices = with_precision(recipe).train.precision, []
    sharded = _asks_for_sharding(notices)
    gpu = torch.accelerator.current_accelerator(check_available=True)
    has_gpu = gpu is not None and gpu.type != "mps"  # MPS has no float64, which the meters use
    use_cpu = recipe.run.device == "cpu" or not has_gpu
    if recipe.run.device == "cuda" and not torch.cuda.is_available():
        raise UserError('run.device: "cuda" is not available here; use "auto" or "cpu"')
    if precision == "fp16" and use_cpu:
        raise UserError('train.precision: "fp16" requires a GPU, but this runs on the CPU; use "bf16" or "fp32"')
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if launcher and {"no": "fp32"}.get(launcher, launcher) != precision:
        notices.append(f'precision: the launcher says "{launcher}", the recipe "{precision}"; the recipe decides')
    dynamo = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if dynamo != "no" and not recipe.train.compile:
        notices.append(f'compile: the launcher says dynamo backend "{dynamo}"; the recipe decides (train.compile)')
    if recipe.run.deterministic:
        # cuBLAS reads this when its first handle is made. Deterministic algorithms raise on CUDA without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # NCCL's default of ten minutes would end a run whose main process samples or decodes for longer.
    timeout = timedelta(hours=recipe.train.timeout_hours)
    # Without a GPU and cpu=True, accelerate 1.15 does not detect the other ranks. FSDP is hidden from accelerate, because it
    # ignores FSDP without a GPU, and otherwise shards the model only together with its own optimizer.
    with _without(USE_FSDP):
        accelerator = Accelerator(
            cpu=use_cpu,
            mixed_precision="no" if precision == "fp32" else precision,
            dynamo_backend="no",  # the model is compiled in place, so that its keys keep their names
            # The loop divides by the accumulation steps itself, so that ACCELERATE_GRADIENT_ACCUMULATION_STEPS cannot
            # change the scale of a gradient.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=timeout),
            ],
        )
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != expected:
        raise UserError(
            f"the launcher started {expected} processes, but accelerate joined {accelerator.num_processes}; without a GPU, "
            "launch with accelerate_configs/cpu_two_processes.yaml or set ACCELERATE_USE_CPU=true"
        )
    kind = str(accelerator.distributed_type.value)
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise UserError(
            f"the launcher's configuration asks for {kind}; flowkit supports plain data parallelism and FSDP2: use one of "
            "accelerate_configs/"
        )
    if accelerator.num_processes > 1:
        _check_one_precision(precision, accelerator.device)
    if sharded:
        held = f"each of the {expected} processes holds a part of the model"
        notices.append(f"FSDP: {held if expected > 1 else 'there is one process, so the model stays whole'}")
    settings = contextlib.ExitStack()
    settings.enter_context(repeatable_products() if recipe.run.deterministic else tf32_products())
    split = sharded and expected > 1
    return Environment(accelerator, tuple(notices), Agreement(timeout), sharded=split, settings=settings)


def with_precision(recipe: Recipe, earlier: str | None = None) -> Recipe:
    """Return the recipe with `train.precision = "auto"` resolved: to that of a run that continues, else by the device.

    On CUDA with bf16 in hardware it is bf16, elsewhere fp32. What a machine happens to measure never decides.
    """
    if recipe.train.precision != "auto":
        return recipe
    native = recipe.run.device != "cpu" and torch.cuda.is_available()
    native = native and torch.cuda.is_bf16_supported(including_emulation=False)
    train = recipe.train.model_copy(update={"precision": earlier or ("bf16" if native else "fp32")})
    return recipe.model_copy(update={"train": train})


def _check_one_precision(precision: str, device: torch.device) -> None:
    """Raise UserError if the processes' GPUs led to different precisions. A collective."""
    number = ("fp32", "fp16", "bf16").index(precision)
    extremes = torch.tensor([number, -number], device=device)
    distributed.all_reduce(extremes, distributed.ReduceOp.MAX)
    if extremes.sum():
        raise UserError(
            'train.precision: "auto" is bf16 on the GPUs of some processes and fp32 on those of others; set "fp32" or "fp16"'
        )


def _asks_for_sharding(notices: list[str]) -> bool:
    """Return whether the launcher's environment asks for FSDP2. Read here, since accelerate silently ignores it without a GPU.

    Raises UserError for FSDP1 and other unsupported ways of distributed training.
    """
    for variable, name in OTHER_WAYS.items():
        if _is_true(variable):
            raise UserError(
                f"the launcher's configuration asks for {name}; flowkit supports plain data parallelism and FSDP2: use one "
                "of accelerate_configs/"
            )
    if not _is_true(USE_FSDP):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            f"fsdp_version: the launcher's configuration says {version}, but flowkit supports FSDP2 only; set "
            "fsdp_version: 2 as in accelerate_configs/fsdp.yaml"
        )
    for variable, setting in FSDP_LEFT_OUT.items():
        if _is_true(variable):
            notices.append(f"FSDP: flowkit does not support {setting}: true; the setting is ignored")
    return True


def _choose_interface() -> None:
    """Tell gloo which network interface reaches the first machine, unless the user has chosen one.

    By default gloo takes the interface of the host's own name, on many systems the loopback, which is unreachable for others.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    first = os.environ.get("MASTER_ADDR")
    if not several or not first or GLOO_INTERFACE in os.environ:
        return
    name = _interface_towards(first)
    if name is not None:
        os.environ[GLOO_INTERFACE] = name


def _interface_towards(host: str) -> str | None:
    """Return the name of the interface that routes to `host`; None if unknown or the loopback."""
    import psutil  # installed by accelerate

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing, only looks up the route
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


def _abandon_collectives() -> None:
    """End pending NCCL collectives. Those with a lost process never finish, and the end of this one would wait for them.

    Does nothing on gloo, whose collectives end with an error by themselves.
    """
    if not distributed.is_initialized() or "nccl" not in distributed.get_backend():
        return
    with contextlib.suppress(Exception):  # the error that led here is the one to report
        distributed.GroupMember.WORLD._get_backend(torch.device("cuda")).abort()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def leave(environment: Environment) -> None:
    """Destroy the process group and reset accelerate's singletons, so that another run in this process starts fresh."""
    from accelerate.state import AcceleratorState

    environment.settings.close()
    environment.accelerator.end_training()
    environment.accelerator.free_memory()
    AcceleratorState._reset_state(reset_partial_state=True)
