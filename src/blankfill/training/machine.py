"""The properties of a machine that change the last bits of a run's numbers, and how a resumed run retains them.

Sums of floating-point numbers depend on their order, and the order depends on the device, the compute type, the number
of threads, the micro-batch, the attention kernel, the processor and the version of torch. A run chooses all of these
once, at its start, from facts and options and never from measured speed, and stores them in every checkpoint (and, for
readers, in `machine.json`). A resumed run takes them from its checkpoint; where this machine cannot use one of them, or
an option changes one, a sentence says how that changes the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

import torch

from blankfill.attention.kernels import Kernel, best_kernel
from blankfill.errors import Problem, UserError, setting
from blankfill.system import environment
from blankfill.system.bounds import COMMON
from blankfill.system.device import is_here, named_device, pick_device
from blankfill.system.threads import Threads, choose_threads, counted, from_variables, useful_threads
from blankfill.training.agree import ALONE, Group, agree
from blankfill.training.options import Precision
from blankfill.training.pace import Pace
from blankfill.training.precision import has_bf16, pick_dtype

FILE = "machine.json"
"""File of a run folder with the machine's properties, for readers."""
NOTED = "machine"
"""Key of the machine's properties in the state of a checkpoint."""
CHANGEABLE = ("device", "threads", "micro_batch", "workers")
"""Options that adapt a run to a machine; a resumed run may change them."""


class MachineOptions(Protocol):
    """The options of a run that choose the machine's properties."""

    @property
    def precision(self) -> Precision:
        """Type of the matrix products, or auto."""

    @property
    def device(self) -> str:
        """Device to compute on, or auto."""

    @property
    def threads(self) -> int:
        """CPU threads; 0 for the usual number."""

    @property
    def micro_batch(self) -> int:
        """Rows at a time; 0 for all."""


@dataclass(frozen=True)
class Machine:
    """The properties that change the last bits of numbers. micro_batch: as in the options; 0 for all rows of a step at
    once. capability: the instruction set of torch's own kernels."""

    device: str
    compute: str
    threads: int
    micro_batch: int
    attention: Kernel
    torch_version: str
    capability: str
    processor: str
    instructions: str

    @property
    def dtype(self) -> torch.dtype:
        """The compute type."""
        dtype = getattr(torch, self.compute)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def where(self) -> str:
        """Device, type and threads in words."""
        threads = f", {counted(self.threads)}" if self.device == "cpu" else ""
        return f"{torch.device(self.device).type} {self.compute}{threads}"

    def values(self) -> dict[str, Any]:
        """Return the properties as JSON values."""
        return dataclasses.asdict(self)


def machine_from(values: object) -> Machine | None:
    """Build the properties from `values`' result; None for anything else, such as the state of an earlier version."""
    if not isinstance(values, Mapping):
        return None
    kinds = {"threads": int, "micro_batch": int}
    values_by_name: dict[str, Any] = {field.name: values.get(field.name) for field in dataclasses.fields(Machine)}
    if any(type(value) is not kinds.get(name, str) for name, value in values_by_name.items()):
        return None
    known = values_by_name["compute"] in ("float32", "bfloat16", "float16") and values_by_name["attention"] in get_args(
        Kernel
    )
    if not known or not 0 < values_by_name["threads"] <= COMMON["threads"].most or values_by_name["micro_batch"] < 0:
        return None
    try:
        named_device(values_by_name["device"])
    except UserError:
        return None
    return Machine(**values_by_name)


@dataclass
class Conditions:
    """The conditions under which a run computes. given: whether the user chose the number of threads. remarks:
    sentences for the user."""

    machine: Machine
    given: bool
    remarks: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return torch.device(self.machine.device)

    @property
    def dtype(self) -> torch.dtype:
        """The compute type."""
        return self.machine.dtype

    def begin(self) -> None:
        """Apply the conditions to torch."""
        torch.set_num_threads(self.machine.threads)

    def watch(self, tell: Callable[[int, str, str], None]) -> Callable[[int, float, int], bool]:
        """Return a function that the loop calls after each step with (step, seconds, tokens): it halves the threads
        when steps have become many times slower, and returns whether it did. tell: takes the event (step, kind,
        text)."""
        pace = Pace()
        steps_said: list[int] = []

        def stepped(step: int, seconds: float, tokens: int) -> bool:
            threads = self.machine.threads
            if self.machine.device != "cpu" or threads < 2 or not pace.step(seconds, tokens):
                return False
            slower = f"steps take {pace.slower:.0f} times as long as at the start, as if other programs used the cores"
            if self.given:
                if not steps_said:
                    steps_said.append(step)
                    advice = (
                        f"{slower}; the run keeps its {threads} threads, since they were given as an option; stop it "
                        f"and resume it with {setting('threads', threads // 2)}, which changes its numbers by rounding"
                    )
                    tell(step, "threads", Problem(advice))
                return False
            self.machine = dataclasses.replace(self.machine, threads=threads // 2)
            self.begin()
            tell(
                step, "threads",
                f"{slower}; {counted(threads // 2)} instead of {threads} from step {step} on, so that later numbers "
                "differ by rounding; a checkpoint is written now, from which the run resumes exactly",
            )  # fmt: skip
            return True

        return stepped


def settle(options: MachineOptions, shared: Machine | None = None, group: Group = ALONE) -> Conditions:
    """Choose the conditions of a new run.

    shared: conditions of the other runs of a grid, which this run adopts where its options leave them open. Raises
    UserError for a missing device.
    """
    device = pick_device(options.device)
    dtype = pick_dtype(options.precision, device)
    threads = choose_threads(options.threads) if options.threads or shared is None else Threads(shared.threads, False)
    if (
        shared is not None
        and options.precision == "auto"
        and shared.device == str(device)
        and able(device, shared.dtype)
    ):
        dtype = shared.dtype
    remarks = [threads.why] if threads.why and device.type == "cpu" else []
    return Conditions(_here(device, dtype, threads.count, options.micro_batch, group), threads.given, remarks)


def settle_again(
    options: MachineOptions, noted: Machine | None, changes: Mapping[str, Any], group: Group = ALONE
) -> Conditions:
    """Choose the conditions of a resumed run.

    noted: properties in its checkpoint; None when it has none. changes: options of `CHANGEABLE` that the user changed.
    Raises UserError for a requested device that is missing.
    """
    micro_batch = int(changes.get("micro_batch", noted.micro_batch if noted else options.micro_batch))
    device = _device_again(options, noted, changes)
    dtype = pick_dtype(options.precision, device)
    if noted is not None and options.precision == "auto" and able(device, noted.dtype):
        dtype = noted.dtype
    if noted is None or "threads" in changes:
        threads = choose_threads(int(changes.get("threads", options.threads)))
    else:
        threads = Threads(from_variables() or noted.threads, bool(from_variables()))
    now = _here(device, dtype, threads.count, micro_batch, group)
    if noted is not None and (now.device, now.compute) == (noted.device, noted.compute):
        now = dataclasses.replace(now, attention=noted.attention)
    remarks = [threads.why] if threads.why and device.type == "cpu" else []
    if noted is None:
        remarks.append(
            "the checkpoint does not contain the conditions of its computation (an earlier version wrote it); the "
            f"run resumes on {now.where}, and if that differs, later numbers differ by rounding from those of an "
            "uninterrupted run"
        )
        return Conditions(now, threads.given, remarks)
    if parts := differences(now, noted):
        drawn = ""
        if now.micro_batch != noted.micro_batch or now.device != noted.device:
            drawn = " and, where there is dropout, by what is dropped"
        remarks.append(
            f"the run resumes {', '.join(parts)}, so its numbers from here on differ from an uninterrupted run's by "
            f"rounding{drawn}"
        )
    elif device.type == "cpu" and not threads.given:
        remarks += _crowded(now.threads)
    return Conditions(now, threads.given, remarks)


def _device_again(options: MachineOptions, noted: Machine | None, changes: Mapping[str, Any]) -> torch.device:
    if "device" in changes:
        return pick_device(str(changes["device"]))
    before = noted.device if noted else options.device
    return pick_device(before if before != "auto" and is_here(named_device(before)) else "auto")


def differences(now: Machine, noted: Machine) -> list[str]:
    """Describe the properties that differ and change bits, as parts of a sentence."""
    parts = []
    on_cpu = "cpu" in (now.device, noted.device)
    if now.device != noted.device:
        parts.append(f"on {now.device} ({noted.device} so far)")
    if now.compute != noted.compute:
        why = ", for which there are no units here" if noted.compute == "bfloat16" else ""
        parts.append(f"in {now.compute} ({noted.compute} so far{why})")
    if on_cpu and now.threads != noted.threads:
        parts.append(f"with {counted(now.threads)} ({noted.threads} so far)")
    if now.micro_batch != noted.micro_batch:
        parts.append(f"with {_at_once(now.micro_batch)} ({_at_once(noted.micro_batch)} so far)")
    if now.torch_version != noted.torch_version:
        parts.append(f"with torch {now.torch_version} ({noted.torch_version} so far)")
    if now.device == noted.device:
        if now.processor != noted.processor:
            parts.append(f"on another processor ({now.processor}; {noted.processor} so far)")
        elif on_cpu and (now.instructions, now.capability) != (noted.instructions, noted.capability):
            ours, theirs = set(now.instructions.split()), set(noted.instructions.split())
            sets = _lists(sorted(theirs - ours), "without") + _lists(sorted(ours - theirs), "with")
            sets += [f"torch uses {now.capability}, {noted.capability} so far"] * (now.capability != noted.capability)
            parts.append(f"with other instruction sets of the processor ({'; '.join(sets)})")
    return parts


def _lists(names: Sequence[str], word: str) -> list[str]:
    return [f"{word} {', '.join(names)}"] if names else []


def _at_once(rows: int) -> str:
    return f"{rows} row{'s' * (rows != 1)} at a time" if rows else "all rows of a step at once"


def _crowded(threads: int) -> list[str]:
    """Return a sentence when a resumed run retains more threads than there are free cores."""
    cores = environment.usable_cores()
    useful = useful_threads(cores, environment.busy_cores()) if threads > 1 else 1
    if useful >= threads:
        return []
    why = f"there are {cores} cores here" if threads > cores else "other programs keep this machine busy"
    advice = (
        f"{why}, and the run keeps its {threads} threads, with which its numbers stay exact; resumed with "
        f"{setting('threads', useful)} it may be many times faster, and what follows then differs by rounding"
    )
    return [Problem(advice)]


def able(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a device computes in a type without emulating it."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bf16(device))


def _here(device: torch.device, dtype: torch.dtype, threads: int, micro_batch: int, group: Group) -> Machine:
    """Return this machine with the chosen options; compute type and kernel are available to all processes of the
    group."""
    compute = agree(group, "compute type", str(dtype).removeprefix("torch."))
    kernel = agree(group, "attention kernel", best_kernel(device, getattr(torch, compute)))
    if device.type == "cuda" and is_here(device):
        processor, instructions = torch.cuda.get_device_name(device), ""
    else:
        processor, instructions = environment.processor_model(), " ".join(environment.instruction_sets())
    return Machine(
        str(device), compute, threads, micro_batch, kernel,
        torch.__version__, torch.backends.cpu.get_cpu_capability(), processor, instructions,
    )  # fmt: skip
