"""Cycles and exchanges of a small program, written as XLA prints programs for eight chips.

A loop over 6 layers holds a product, and gathers the next weights meanwhile.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjax.planner import hlo_cost, hlo_exchanges, hlo_text

TEXT = (Path(__file__).parent / "eight_chips.hlo.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def program():
    return hlo_text.parse(TEXT)


def test_a_loops_body_counts_as_often_as_it_runs(program):
    found = hlo_cost.costs(program)
    assert hlo_cost.total_cycles(found) == 6 * (1000 + 10) + 300 + 50 + 70 + 5
    assert hlo_cost.cycles_by_kind(found) == {
        "product": 6000,
        "layout": 300,
        "custom call tpu_custom_call": 70,
        "all-gather": 60,
        "reduction": 50,
        # Of two branches the cheaper.
        "elementwise": 5,
    }


def test_what_has_no_estimate_is_named_with_its_size(program):
    unknown = {c.name: c for c in hlo_cost.costs(program) if c.cycles is None}
    assert set(unknown) == {"order.1", "share.1", "sum.2", "sum.3", "kernel.1"}
    assert unknown["order.1"].kind == "gather and scatter"
    assert unknown["order.1"].bytes == 2 * 256 * 4
    assert unknown["kernel.1"].kind == "custom call tpu_custom_call"
    assert unknown["kernel.1"].source == "jit(step)/attend"


def test_what_has_no_estimate_takes_as_long_as_its_bytes(program):
    found = {c.name: c.cycles for c in hlo_cost.costs(program, cycles_per_byte=0.5)}
    # Written and read again.
    assert found["order.1"] == 2 * 2 * 256 * 4 * 0.5
    # A kernel's operands, and of its results what does not stay in fast memory.
    assert found["kernel.2"] == (8 * 64 * 4 + 64 * 256 * 2 + 4) * 0.5
    # Links, not memory, take the time of exchanges; what a kernel does not tell nobody knows.
    assert found["share.1"] is found["sum.2"] is found["kernel.1"] is None


def test_exchanges_their_size_and_whether_computation_goes_on(program):
    found = {c.opcode: c for c in hlo_exchanges.collectives(program)}
    # Two that stand by themselves are two, though their channel is the same.
    assert len(hlo_exchanges.collectives(program)) == 4
    weights = 64 * 64 * 2
    assert found["all-gather"] == ("all-gather", weights, 8, 6, True)
    assert found["all-gather"].bytes_sent == weights * 7 / 8
    # The sum of which every chip keeps a part, and the sum that all have.
    assert found["reduce-scatter"] == ("reduce-scatter", 64 * 64 * 4, 4, 1, False)
    assert found["all-reduce"] == ("all-reduce", 8 * 64 * 4, 2, 1, False)
    assert found["all-reduce"].bytes_sent == 2 * 8 * 64 * 4 / 2


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo_text.parse("HloModule nothing")


EXCHANGES = """HloModule exchanges
ENTRY %main (a: bf16[8,64], b: f32[4,4]) -> bf16[8,64] {
  %a = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %b = f32[4,4]{1,0} parameter(1)
  %c.1 = ((bf16[8,64]{1,0:T(8,128)(2,1)}, f32[4,4]{1,0}), (bf16[64,64]{1,0}, f32[32,4]{1,0})) \
all-gather-start(%a, %b), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %d.1 = (bf16[8,64]{1,0}, bf16[64,64]{1,0:S(1)}) all-gather-start(%a), channel_id=2, \
replica_groups=[1,8]<=[8], dimensions={0}
  %e.1 = bf16[64,64]{1,0} all-gather(%a), channel_id=3, replica_groups=[1,8]<=[8], dimensions={0}
  %f.1 = (bf16[8,64]{1,0}, bf16[8,64]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%a), channel_id=4, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %g.1 = bf16[8,64]{1,0} collective-permute(%a), channel_id=5, source_target_pairs={{0,1},{1,0}}
  %h.1 = f32[4,4]{1,0} all-reduce-start(%b), channel_id=6, replica_groups={{0,1}}, to_apply=%add
  ROOT %i.1 = bf16[8,64]{1,0} copy(%a)
}
"""


def test_an_exchange_that_is_started_counts_its_result_alone():
    found = hlo_exchanges.collectives(hlo_text.parse(EXCHANGES))
    both, started, plain, passed, handed, summed = found
    assert both.bytes == 64 * 64 * 2 + 32 * 4 * 4
    assert started.bytes == plain.bytes == 64 * 64 * 2
    assert started.bytes_sent == plain.bytes_sent == 64 * 64 * 2 * 7 / 8
    # What is handed on leaves a chip whole, whoever takes it.
    assert passed.bytes_sent == handed.bytes_sent == 8 * 64 * 2
    assert summed.bytes_sent == 4 * 4 * 4
    assert [each.overlapped for each in found] == [True, True, False, True, False, True]
