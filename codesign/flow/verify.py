"""Verification of a bundle: comparison of golden model, cycle model and simulated Verilog, and synthesis."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from codesign.bundle.files import StoredBundle
from codesign.errors import InputError
from codesign.flow.report_update import recorded
from codesign.flow.samples import random_samples, samples_of
from codesign.frontend import zoo
from codesign.ir.network import Network
from codesign.render.svg import Picture
from codesign.report.report import Report

if TYPE_CHECKING:
    from codesign.flow.open import Contents
    from codesign.sim.check import Sample, Verification

SYNTHESES = ("none", "engines", "top")
"""Choices of what to synthesize."""

Results: TypeAlias = "Mapping[str, Verification | None]"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifyRequest:
    """Options of a verification.

    Attributes:
        name: the bundle's folder as the user wrote it.
        kernel: run only this kernel's layers, with random data; None runs the whole model.
        waves: write the waves to a file next to the bundle's folder.
        seed: seed of the samples.
        images: number of samples, run back to back.
        synth: one of `SYNTHESES`.
    """

    name: str
    kernel: str | None = None
    waves: bool = False
    seed: int = 0
    images: int = 3
    synth: str = "none"

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"--images {self.images}; legal: at least 1")
        if self.synth not in SYNTHESES:
            raise InputError(f"--synth {self.synth!r}; legal: {', '.join(SYNTHESES)}")

    @property
    def rerun(self) -> str:
        """Command line that repeats the verification with waves."""
        kernel = "" if self.kernel is None else f" --kernel {self.kernel}"
        return f"codesign verify {self.name}{kernel} --waves --seed {self.seed} --images {self.images}"


@dataclass(frozen=True)
class VerifyResult:
    """The result of a verification.

    Attributes:
        path: the bundle's folder.
        report: the report, updated with the result if the whole model was verified.
        results: comparisons, by layer if a kernel was verified, else a single one named after the model.
        kernel: the kernel's name if only its layers were run.
        skipped: layers that do not fit the design when run alone.
        synthesized: resources counted by open synthesis, by part and resource; None if not requested.
    """

    path: Path
    report: Report
    results: Mapping[str, "Verification"]
    kernel: str | None = None
    skipped: tuple[str, ...] = ()
    synthesized: Mapping[str, Mapping[str, float]] | None = None

    @property
    def result(self) -> "Verification":
        """The first comparison."""
        return next(iter(self.results.values()))

    @property
    def passed(self) -> bool:
        """Whether something was run and everything agrees."""
        return bool(self.results) and all(result.passed for result in self.results.values())

    @property
    def problems(self) -> list[str]:
        """Mismatches, one sentence each."""
        found = [f"no room to run alone: {name}" for name in self.skipped]
        for name, result in self.results.items():
            found += [*map(str, result.mismatches), *result.faults]
            if not result.cycle_exact:
                found.append(
                    f"{name}: cycles {sorted(set(result.cycles))}, the model says {sorted(set(result.modelled))}"
                )
        return found

    def waveform(self, signals: Sequence[str], first: int = 0, cycles: int = 24, column: int = 34) -> Picture:
        """Timing diagram from the recorded waves, ``column`` pixels per cycle, from cycle ``first`` on.

        Raises:
            InputError: verified without waves.
            ValueError: unknown signal.
        """
        from codesign.sim.waves import draw, read

        if self.result.waves is None:
            raise InputError("verified without waves; legal: verify(waves=True)")
        return Picture(draw(read(self.result.waves, signals, first=first, cycles=cycles), column=column))

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def checked(bundle: StoredBundle, inside: "Contents", request: VerifyRequest) -> VerifyResult:
    """Verifies a bundle and writes the result into its report.

    Args:
        bundle: the stored bundle.
        inside: its contents.
        request: options of the verification.

    Raises:
        InputError: an unknown kernel, or more samples than available.
        CheckError: the hardware reports an error or breaks a protocol.
        ToolError: the simulator, the compiler or Yosys is missing or fails.
    """
    resolved = bundle.path.resolve()
    waves = resolved.with_name(f"{resolved.name}.vcd") if request.waves else None
    if request.kernel not in (None, *inside.design.engines):
        legal = ", ".join(inside.design.engines)
        raise InputError(f"--kernel {request.kernel!r}; legal: {legal}, the kernels of {bundle.path}")
    counts = _synthesized(bundle, request.synth) if request.synth != "none" else None
    run = _model if request.kernel is None else _kernel
    results = run(bundle, inside, request, waves)
    done = {name: result for name, result in results.items() if result is not None}
    skipped = tuple(name for name, result in results.items() if result is None)

    def noted(report: Report) -> Report:
        if counts is not None:
            report = report.with_synthesis(counts)
        return report if request.kernel is not None else _verified(report, done[inside.model])

    report = recorded(bundle, noted) if request.kernel is None or counts is not None else inside.report
    return VerifyResult(bundle.path, report, done, request.kernel, skipped, counts)


def _verified(report: Report, result: "Verification") -> Report:
    slowest, modelled = max(result.cycles), max(result.modelled)
    return report.verified(
        bit_exact=result.bit_exact, modelled=modelled, simulated=slowest, images=result.images, faults=result.faults
    )


def _model(bundle: StoredBundle, inside: "Contents", request: VerifyRequest, waves: Path | None) -> Results:
    """Verifies the whole model on the whole accelerator."""
    from codesign.flow.open import model_faults
    from codesign.sim import check

    samples = chosen(inside, request.images, request.seed)
    faults = model_faults(bundle, inside, samples)
    library = inside.library(waves is not None)
    result = check.verify(inside.subject, library, samples, rerun=request.rerun, waves=waves)
    return {inside.model: replace(result, faults=(*result.faults, *faults))}


def _kernel(bundle: StoredBundle, inside: "Contents", request: VerifyRequest, waves: Path | None) -> Results:
    """Verifies each layer of a kernel alone on the whole accelerator; None for layers that do not fit."""
    from codesign.compiler.program import compile_network
    from codesign.sim import check
    from codesign.sim.single_layer import isolated

    assert request.kernel is not None
    library = inside.library(waves is not None)
    results: dict[str, Verification | None] = {}
    for layer, network in isolated(inside.network, request.kernel, inside.design, request.seed):
        results[layer.name] = None
        if network is not None:
            subject = replace(inside.subject, network=network, program=compile_network(network, inside.design))
            samples = random_samples(network, request.images, request.seed)
            first, waves = waves, None
            results[layer.name] = check.verify(subject, library, samples, rerun=request.rerun, waves=first)
    return results


def _synthesized(bundle: StoredBundle, what: str) -> dict[str, Mapping[str, float]]:
    """Resources by part, counted by open synthesis of the bundle's Verilog."""
    from codesign.hw.system.accelerator import TOP
    from codesign.sim.synthesis.synth import synthesize, synthesize_engines

    sources = {
        name.removeprefix("rtl/"): data.decode() for name, data in bundle.files.items() if name.startswith("rtl/")
    }
    _LOG.info("synthesizing with Yosys; minutes, unless it is in the cache")
    found = synthesize(sources, TOP).engines if what == "top" else synthesize_engines(sources)
    return {name: counts.to_json() for name, counts in sorted(found.items())}


def chosen(inside: "Contents", count: int, seed: int) -> "list[Sample]":
    """Samples for a bundle's model; see `typical`."""
    return typical(inside.model, inside.network, count, seed)[0]


def typical(model: str, network: Network, count: int, seed: int) -> "tuple[list[Sample], str]":
    """Held-out samples of a built-in model, shuffled unless the seed is 0; random samples for other models.

    Args:
        model: model as named by the user.
        network: its integer network.
        count: number of samples.
        seed: of their order, or of random ones.

    Returns:
        The samples, and which they are: "held-out" or "random".

    Raises:
        InputError: more samples than available.
    """
    from codesign.flow.minilm import encoder_inputs
    from codesign.quant.calibrate import minilm

    if model == minilm.NAME and not minilm.missing():
        return [*samples_of(network, {minilm.INPUT: encoder_inputs(count, seed)})], "held-out"
    if model not in {known.name for known in zoo.models() if known.heldout}:
        return list(random_samples(network, count, seed)), "random"
    arrays, _ = zoo.heldout(model)
    every = samples_of(network, arrays)
    order = range(len(every)) if seed == 0 else np.random.default_rng(seed).permutation(len(every))
    if count > len(every):
        raise InputError(f"--images {count}; legal: 1 to {len(every)}, the held-out samples of {model}")
    return [every[i] for i in order[:count]], "held-out"
