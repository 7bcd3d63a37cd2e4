"""Post-norm transformers from golden to hardware: 16-bit norms, 16-bit inputs, and what they are not for."""

import re
from dataclasses import replace

import numpy as np
import pytest

from codesign.bundle.serialize import read_network, write_network
from codesign.compiler.layout import memory_need, whole_layout
from codesign.compiler.program import compile_network
from codesign.dse.design_space import DesignSpace
from codesign.dse.planner import plain
from codesign.errors import NothingFits
from codesign.flow.build import tools
from codesign.flow.samples import random_samples
from codesign.hw.system.accelerator import formulas, identity, resources, shape, simulation_sources, sources
from codesign.hw.vector import WIDE_RESULT
from codesign.ir.network import Layer, Linear, Network, Norm, Output, Tensor, run
from codesign.numerics.nonlinear import norm
from codesign.sim import check
from codesign.sim.probes import PROBE, probes
from codesign.sim.single_layer import isolated
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import geometry, kernels, memory_map
from codesign.timing.bound.schedule import Bound
from codesign.timing.cycles import exact
from tests.accelerators import SMALL_VIT, board, compiled, fitting, run_program
from tests.marks import few_fast
from tests.transformers import post_norm, samples

ENGINES = {**SMALL_VIT, "vector": {**SMALL_VIT["vector"], "wide": 1}}
BOTH_INPUTS, EMBEDDED = 4, 2
"""Seeds of networks whose input has two tensors, and whose stream begins with an embedding."""


def _norms(network: Network, bits: int) -> list[Norm]:
    return [layer for layer in network if isinstance(layer, Norm) and layer.bits == bits]


def _changed(network: Network, old: Layer, **changes: object) -> Network:
    layers = tuple(old.changed(**changes) if layer is old else layer for layer in network)
    return replace(network, layers=layers)


def _design(network: Network, row_group: int = 5) -> Design:
    return fitting(Design(board(), ENGINES, {}, row_group), [network])


# Golden ------------------------------------------------------------------------------


def test_the_two_norms_of_a_stream_are_one_norm_at_two_scales() -> None:
    """The wide one holds what the narrow one rounds away, and saturates at int16."""
    rng = np.random.default_rng(0)
    r, gain, bias = (
        rng.integers(-9999, 9999, (7, 33)),
        rng.integers(-3000, 3000, 33),
        rng.integers(-(1 << 20), 1 << 20, 33),
    )
    wide, narrow = norm(r, gain, bias, 12, 5, bits=16), norm(r, gain, bias, 20, 5)
    assert np.abs(wide).max() > 1000
    np.testing.assert_array_equal(
        np.clip(np.rint(wide / 256), -128, 127)[np.abs(wide) % 256 != 128], narrow[np.abs(wide) % 256 != 128]
    )
    loud = norm(r, gain, bias, 0, 5, bits=16)
    assert {loud.min(), loud.max()} == {-32768, 32767}


def test_a_network_says_how_wide_its_norms_and_inputs_are() -> None:
    network = post_norm(BOTH_INPUTS)
    with pytest.raises(ValueError, match="inner0 wide: 8 bits; legal: as its target has, 16"):
        _changed(network, _norms(network, 16)[0], bits=8)
    narrow, wide = network.inputs
    with pytest.raises(ValueError, match="input x: -129 to 127; legal for x narrow: -128 to 127"):
        replace(network, inputs=(replace(narrow, low=-129), wide))
    with pytest.raises(ValueError, match="input x: -32768 to 32768; legal for x wide: -32768 to 32767"):
        replace(network, inputs=(narrow, replace(wide, high=1 << 15)))


def test_one_model_input_feeds_tensors_of_both_widths() -> None:
    network = post_norm(BOTH_INPUTS)
    shape = network.inputs[0].shape
    assert [item.name for item in network.inputs] == ["x", "x"]
    values = run(network, {"x": np.full(shape, -40000.0)})
    assert set(values["x narrow"].ravel()) == {-128}
    assert set(values["x wide"].ravel()) == {-32768}
    (drawn,) = random_samples(network, 1, 0)
    assert np.abs(run(network, drawn)["x wide"]).max() > 20000


@pytest.mark.parametrize("seed", range(4))
def test_a_network_survives_its_file(seed: int) -> None:
    network = post_norm(seed)
    again, sample = read_network(write_network(network)), samples(network, seed, 1)[0]
    expected = run(network, sample)
    for name, values in run(again, sample).items():
        np.testing.assert_array_equal(values, expected[name])


# Program -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_every_tensor_lies_where_its_readers_read(seed: int) -> None:
    network = post_norm(seed)
    home = whole_layout(network, _design(network)).home
    assert {home[layer.target] for layer in _norms(network, 16)} == {"skip"}
    assert {home[layer.target] for layer in _norms(network, 8)} == {"normed"}
    assert {home[layer.source] for layer in network if isinstance(layer, Norm)} == {"residual"}
    assert {home[item.target] for item in network.inputs} <= {"input", "position"}
    added = {home[layer.addend] for layer in network if isinstance(layer, Linear) and layer.addend is not None}
    assert added == {"skip", "position"}


def test_commands_carry_the_numbers_of_the_new_memory() -> None:
    """The new memory comes behind the numbers that a design without it has."""
    wide_map, narrow = (memory_map(geometry(engines)) for engines in (ENGINES, SMALL_VIT))
    for at, names in narrow.numbers.items():
        assert wide_map.numbers[at][: len(names)] == names
    assert [wide_map.number("linear", "addend", name) for name in ("residual", "position", "skip")] == [1, 2, 3]
    network = post_norm(BOTH_INPUTS)
    program = compile_network(network, _design(network))
    wide = [c for c in program.commands if c.engine == "vector" and c.fields["flags"] & WIDE_RESULT]
    assert {c.label for c in wide} == {layer.name for layer in _norms(network, 16)}
    assert {c.writes[0].memory for c in wide} == {"skip"}
    assert {c.fields.get("addend", 0) for c in program.commands if c.engine == "linear"} == {0, 2, 3}
    assert 2 in {c.fields["memory"] for c in program.commands if c.engine == "store"}
    loads = [c for c in program.commands if c.label == "x wide"]
    assert [(c.engine, c.fields["memory"], c.writes[0].memory) for c in loads] == [
        ("load", wide_map.number("load", "out", "position"), "position")
    ]
    place = program.inputs["x wide"]
    assert (place.bits, place.pitch >= 2 * place.columns) == (16, True)


@pytest.mark.parametrize(
    ("layer", "change", "message"),
    [
        (
            "up0",
            {"source": "inner0 wide"},
            "inner0 wide lies in memory skip; port source of the linear engine reaches input, ",
        ),
        ("outer0 wide", {"source": "inner0 wide"}, r"inner0 wide would be needed in \['residual', 'skip'\]"),
        (
            "second0",
            {"addend": "inner0 narrow"},
            "normed; port addend of the linear engine reaches residual, pos",
        ),
        ("inner0 wide", {"source": "x wide"}, r"x wide would be needed in \['position', 'residual'\]"),
        (
            "q0",
            {"source": "x wide"},
            "x wide lies in memory position; port source of the linear engine reaches input, ",
        ),
    ],
)
def test_what_no_engine_does_is_refused_in_a_line(layer: str, change: dict[str, str], message: str) -> None:
    network = post_norm(BOTH_INPUTS)
    (old,) = (each for each in network if each.name == layer)
    with pytest.raises(NothingFits, match=message):
        compile_network(_changed(network, old, **change), _design(network))


def test_rows_begin_at_whole_words_of_a_vector_engine_wider_than_all_else() -> None:
    network, engines = post_norm(EMBEDDED), {**ENGINES, "vector": {"t_v": 32, "max_d": 64, "wide": 1}}
    design = fitting(Design(board(1), engines, {}, 3), [network])
    commands = [c for c in compile_network(network, design).commands if c.engine == "vector"]
    assert len(commands) > len(_norms(network, 8)) + len(_norms(network, 16))
    for command in commands:
        word = 32 * (2 if command.fields["flags"] & WIDE_RESULT else 1)
        for name, port, span in (("x", word, command.writes[0]), ("r", 64, command.reads[0])):
            assert span.start == command.fields[f"{name}_base"] * port
            assert span.stop - span.start == command.fields["rows"] * command.fields[f"{name}_stride"] * port


def test_memory_need_is_enough_and_tight() -> None:
    network = post_norm(EMBEDDED)
    bare = Design(board(), ENGINES, {}, 5)
    need = memory_need(network, bare)
    compile_network(network, replace(bare, memories=need))
    for name in set(need) - {"input", "output"}:
        with pytest.raises(NothingFits, match=name):
            compile_network(network, replace(bare, memories=need | {name: need[name] - 64}))


def _without_wide_norms(network: Network) -> Network:
    """The same layers, but nothing is added."""
    tensors = network.tensors | {n.target: replace(network.tensors[n.target], bits=8) for n in _norms(network, 16)}
    changes: dict[type[Layer], dict[str, object]] = {Norm: {"bits": 8}, Linear: {"addend": None}}
    layers = tuple(layer.changed(**changes.get(type(layer), {})) for layer in network)
    outputs = tuple(output for output in network.outputs if output.source == "head")
    return replace(network, tensors=tensors, layers=layers, outputs=outputs)


# Designs -----------------------------------------------------------------------------


def test_wide_follows_from_the_network() -> None:
    """It is no axis of the search, and a design without it is what it was."""
    network = post_norm(EMBEDDED)
    design = plain(network, Board.load("zcu102"), tools())
    assert design.engines["vector"]["wide"] == 1
    assert "skip" in design.memories
    space = DesignSpace(network, Board.load("zcu102"), tools())
    assert "wide" not in space.axes
    narrow = _without_wide_norms(network)
    plainer = plain(narrow, Board.load("zcu102"), tools())
    assert "wide" not in plainer.engines["vector"]
    assert "skip" not in plainer.memories


def test_a_wide_engine_and_its_memory_come_together() -> None:
    network = post_norm(EMBEDDED)
    design = _design(network)
    assert shape(design).engines["vector"].params["wide"]
    with pytest.raises(ValueError, match=r"memories \['skip'\]; legal with linear, attention, vector: input, "):
        shape(replace(design, engines=SMALL_VIT))
    without = {name: size for name, size in design.memories.items() if name != "skip"}
    with pytest.raises(ValueError, match="no memory skip; legal with linear, attention, vector: all of "):
        shape(replace(design, memories=without))


@pytest.mark.rtl
def test_wide_zero_is_the_hardware_without_the_parameter() -> None:
    """But for the hash of the design, which is in a register."""
    network = replace(post_norm(EMBEDDED))
    memories = {name: size for name, size in _design(network).memories.items() if name != "skip"}
    without = Design(board(), SMALL_VIT, memories)
    said = Design(board(), {**SMALL_VIT, "vector": {**SMALL_VIT["vector"], "wide": 0}}, memories)
    assert resources(without) == resources(said)
    one, other = (dict(sources(design).sources.files) for design in (without, said))
    assert identity(without) != identity(said)
    assert one.pop("top.v") != other.pop("top.v")
    assert one == other
    assert not any("round_shift_16" in text for text in one.values())
    wide = dict(sources(_design(network)).sources.files)
    assert wide["store.v"] != one["store.v"]  # it takes the number of one more memory
    assert wide["linear.v"] == one["linear.v"]


def test_resources_grow_by_the_memory_and_the_wider_rounding() -> None:
    network = post_norm(EMBEDDED)
    design = _design(network)
    memories = {name: size for name, size in design.memories.items() if name != "skip"}
    wide, narrow = resources(design), resources(Design(board(), SMALL_VIT, memories))
    assert (wide["vector"].dsp, wide["vector"].bram36) == (narrow["vector"].dsp, narrow["vector"].bram36)
    assert wide["vector"].lut > narrow["vector"].lut
    assert wide["memories"].bram36 > narrow["memories"].bram36
    assert wide["linear"] == narrow["linear"]


@pytest.mark.parametrize("seed", few_fast(range(12), 2))
def test_no_design_is_faster_than_the_bound(seed: int) -> None:
    rng, gaps = np.random.default_rng([seed, 3]), []
    network = post_norm(seed)
    for _ in range(8):
        interface = board(int(rng.choice([1, 2, 4])), int(rng.choice([7, 60, 200])), int(rng.choice([1, 8, 16])))
        linear = SMALL_VIT["linear"] | {
            "t_in": int(rng.choice([4, 8, 16])), "t_out": int(rng.choice([16, 32, 64])), "n_l": int(rng.integers(1, 9)),
            "kw_max": 64, "ring_words": int(rng.choice([64, 1024])), "table_words": int(rng.choice([16, 64])),
        }  # fmt: skip
        engines = {**ENGINES, "linear": linear, "vector": {"t_v": int(rng.choice([1, 4, 8])), "max_d": 64, "wide": 1}}
        design = fitting(Design(interface, engines, {}, int(rng.integers(1, 20))), [network])
        cycles = exact(compile_network(network, design), design, formulas(design.engines)).total
        gaps.append(cycles - int(Bound(network, interface)(engines, formulas(engines), design.row_group)))
    assert min(gaps) >= 0


# Hardware ----------------------------------------------------------------------------


def _check(seeds: range, t_v: int = 8, **interface: int) -> None:
    """Transformers on one accelerator, three inferences each without a reset, and one with random stalls."""
    networks = [post_norm(seed, wild=seed % 3 == 0) for seed in seeds]
    engines = {**ENGINES, "vector": {"t_v": t_v, "max_d": 64, "wide": 1}}
    design = fitting(Design(board(**interface), engines, {}, 5), networks)
    library = compiled(design)
    for seed, network in zip(seeds, networks, strict=True):
        for outcome in run_program(library, design, network, list(samples(network, seed, 3))):
            assert outcome.bits_equal, f"transformer {seed}"
            assert outcome.simulated == outcome.modelled, f"transformer {seed}"
        stalled = run_program(library, design, network, list(samples(network, seed, 1)), stall=(seed, 0.3))
        assert stalled[0].bits_equal, f"transformer {seed} with stalls"


@pytest.mark.rtl
def test_random_transformers_equal_the_rtl() -> None:
    _check(range(10))


@pytest.mark.rtl
def test_random_transformers_behind_a_narrow_bus_equal_the_rtl() -> None:
    """The vector engine's words are the widest of all."""
    _check(range(10, 14), t_v=32, ports=1)


@pytest.mark.slow
def test_many_random_transformers_equal_the_rtl() -> None:
    _check(range(10, 40), ports=2, latency=100)


@pytest.mark.rtl
def test_verification_passes_and_names_the_wide_norm_that_is_wrong() -> None:
    """On the design that the network gets; the fault is one bit of what is written to the memory of wide results."""
    network = post_norm(BOTH_INPUTS)
    design = plain(network, Board.load("zcu102"), tools())
    design = replace(design, memories={name: 4 * size for name, size in design.memories.items()})
    subject = check.VerifySubject(
        network, design, compile_network(network, design), formulas(design.engines), shape(design).identity
    )
    verilog = dict(simulation_sources(design).files)
    drawn = random_samples(network, 2, 0)
    result = check.verify(subject, check.compiled(verilog, design.board.memory), drawn)
    assert result.passed
    text, count = re.subn(r"( y <= )(\S+) ;", r"\1\2 ^ {wide, 3'b0};", verilog["round_shift_16.v"])
    assert count == 1
    broken = check.verify(subject, check.compiled(verilog | {"round_shift_16.v": text}, design.board.memory), drawn)
    assert not broken.bit_exact
    assert (broken.mismatches[0].layer, broken.mismatches[0].engine) == ("inner0 wide", "vector")


@pytest.mark.rtl
def test_pre_norm_and_post_norm_layers_share_the_hardware() -> None:
    """Both kinds of norm of a stream that goes on: it is added itself in front of the next norm."""
    network = _mixed()
    engines = {name: params for name, params in ENGINES.items() if name != "attention"}
    design = fitting(Design(board(), engines, {}, 5), [network])
    home = whole_layout(network, design).home
    assert home["y"] == home["stream"] == "residual"
    for outcome in run_program(compiled(design), design, network, list(samples(network, 0, 3))):
        assert outcome.bits_equal
        assert outcome.simulated == outcome.modelled


def _mixed() -> Network:
    base = post_norm(EMBEDDED)
    by_name = {layer.name: layer for layer in base}
    kept = [by_name[name] for name in ("embedding", "embedded narrow", "embedded wide")]
    one, other = by_name["q0"], by_name["k0"]
    assert isinstance(one, Linear)
    assert isinstance(other, Linear)
    stream = replace(one, target="stream", addend="embedded wide", low=-32768, high=32767, shift=one.shift - 7)
    y = replace(other, target="y", addend="stream", low=-32768, high=32767, shift=other.shift - 7)
    rows, width = base.tensors["embedding"].shape
    tensors = {name: base.tensors[name] for name in ("x narrow", "embedding", "embedded narrow", "embedded wide")}
    tensors |= {name: Tensor(name, rows, width, 16, 1.0) for name in ("stream", "y")}
    outputs = tuple(Output(name, (rows, width), name) for name in ("embedded wide", "y"))
    return Network("mixed", tensors, (*kept, stream, y), base.inputs, outputs, base.constants)


# Verification tools ----------------------------------------------------------------------


@pytest.mark.parametrize("kernel", kernels())
def test_every_layer_runs_alone(kernel: str) -> None:
    network = post_norm(EMBEDDED)
    design = fitting(Design(board(), ENGINES, {}), [network])
    design = replace(design, memories={name: 4 * size for name, size in design.memories.items()})
    for layer, alone in isolated(network, kernel, design, 0):
        assert alone is not None, layer.name
        compile_network(alone, design)
        (mine,) = (x for x in alone.layers if x.name == layer.name)
        assert not isinstance(layer, Norm) or (isinstance(mine, Norm) and mine.bits == layer.bits)


def test_probes_show_every_element_of_every_layer() -> None:
    network = post_norm(EMBEDDED)
    sample = samples(network, 0, 1)[0]
    golden, design = run(network, sample), _design(network)
    design = replace(design, memories={name: 4 * size for name, size in design.memories.items()} | {"output": 1 << 14})
    for count, layer in enumerate(network.layers, start=1):
        shown = [(at, run(probe, sample)[PROBE]) for at, probe in probes(network, count, design)]
        assert shown, layer.name
        found = np.concatenate([part for _, part in shown], axis=1)
        np.testing.assert_array_equal(found, golden[layer.target], layer.name)
