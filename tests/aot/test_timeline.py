import re

import pytest

from jaxllm.aot.cost import EXPECTED
from jaxllm.aot.hlo import parse_hlo
from jaxllm.aot.network import DCN_SECONDS, Network
from jaxllm.aot.timeline import Machine
from jaxllm.aot.topology import parse_topology
from jaxllm.hardware import TPUS, find_chip
from tests.aot.programs import EXCHANGES, LOOPS, TRANSFER

MATMUL = 2e-3  # 3,000,000 cycles of a v5e
# On a line of chips, 16 in a row.
PLACES = tuple((x, y, 0, 0) for x in range(4) for y in range(4))


def replay(text, *, slices=1):
    topology = parse_topology("v5e:4x4", num_slices=slices)
    chip = find_chip("TPU v5e")
    return Machine(parse_hlo(text), chip, Network(topology, PLACES), EXPECTED).run()


def longer(text, factor):
    """The program with gathers of `factor` times as many bytes."""
    return re.sub(r"(%[gh]) = bf16\[512,", rf"\1 = bf16[{512 * factor},", text)


def test_each_kind_of_work_adds_up():
    done = replay(EXCHANGES)
    assert done.kinds["matmul"] == pytest.approx(MATMUL)
    assert done.kinds["pallas"] == pytest.approx(2e-5)
    assert done.seconds == pytest.approx(sum(done.kinds.values()))
    assert done.cycles == 3_000_000


def test_a_gather_hides_behind_the_compute_between_start_and_end():
    gather, reduction = replay(EXCHANGES).exchanges.values()
    assert (gather.collective.kind, gather.is_async, gather.count) == ("all-gather", True, 1)
    assert 0 < gather.seconds < MATMUL
    assert gather.exposed == 0
    assert (reduction.collective.kind, reduction.is_async) == ("all-reduce", False)
    assert reduction.exposed == pytest.approx(reduction.seconds)


def test_of_a_longer_gather_the_rest_is_exposed():
    gather, _ = replay(longer(EXCHANGES, 1000)).exchanges.values()
    assert gather.seconds > MATMUL
    assert gather.exposed == pytest.approx(gather.seconds - MATMUL)


def test_exchanges_on_the_same_links_wait_for_each_other():
    """Ended after the all-reduce instead of before, the gather still comes first."""
    plain = replay(longer(EXCHANGES, 1000))
    ended = re.search(r"  %gathered = .*\n", EXCHANGES)[0]
    moved = EXCHANGES.replace(ended, "").replace("  ROOT %flash", f"{ended}  ROOT %flash")
    later = replay(longer(moved, 1000))
    assert later.seconds == pytest.approx(plain.seconds)
    gather, reduction = later.exchanges.values()
    assert gather.exposed == 0
    assert reduction.exposed > reduction.seconds


def test_exchanges_that_share_a_channel_are_kept_apart():
    """A gather and two reductions of different sizes, all through channel 8."""
    text = EXCHANGES.replace("channel_id=7", "channel_id=8")
    reduction = re.search(r"  %reduced = .*\n", text)[0]
    small = reduction.replace("%reduced", "%small").replace("bf16[512,512]", "bf16[8,512]")
    exchanges = replay(text.replace(reduction, reduction + small)).exchanges.values()
    assert sorted((each.collective.bytes, each.count) for each in exchanges) == [
        (8 * 512 * 2, 1),
        (512 * 512 * 2, 1),
        (512 * 512 * 2, 1),
    ]


def with_two_gathers(change):
    """The program with a second gather, the first one's instructions but for `change` in each."""
    text = EXCHANGES
    for name in ("begun", "ended"):
        computation = re.search(rf"%{name} .*?\n}}\n\n", text, flags=re.DOTALL)[0]
        text = text.replace(
            computation, computation + change(computation).replace(name, name + "2")
        )
    start, part, end = (
        re.search(rf"  %{name} = .*\n", text)[0] for name in ("gather-start", "part", "gathered")
    )
    second = {
        line: re.sub(r"%(gather-start|part|gathered|begun|ended)\b", r"%\g<1>2", line)
        for line in (start, part, end)
    }
    # Ended in the other order than begun.
    text = text.replace(start, start + second[start]).replace(part, part + second[part])
    return text.replace(end, second[end] + end)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("channel_id=7", 'channel_id=7, chain_id="1"'),
        lambda text: re.sub(r"(%[gh]) = bf16\[512,", r"\1 = bf16[1024,", text),
    ],
    ids=["chain", "shape"],
)
def test_chains_of_fusions_that_share_a_channel_are_kept_apart(change):
    exchanges = replay(with_two_gathers(change)).exchanges.values()
    gathers = [each for each in exchanges if each.collective.kind == "all-gather"]
    assert [each.count for each in gathers] == [1, 1]
    assert all(each.exposed == 0 for each in gathers)


def test_an_end_whose_start_is_elsewhere_is_waited_for():
    text = re.sub(r"  %(gather-start|part) = .*\n", "", EXCHANGES).replace("%part", "%w")
    gather, _ = replay(text).exchanges.values()
    assert gather.count == 1
    assert gather.exposed == pytest.approx(gather.seconds)


def test_a_loop_repeats_its_body():
    nothing = LOOPS.replace("constant(4)", "constant(0)")
    body = 0.4 * 1500 / 1.5e9  # of the element-wise cycles of a v5e
    # From 0 and from 1 to below 4, and to below 11.
    for text, rounds in ((LOOPS, 4 + 3), (LOOPS.replace("constant(4)", "constant(11)"), 11 + 10)):
        taken = replay(text).seconds - replay(nothing).seconds
        # The counter's few bytes take a little, less than a thousandth.
        assert taken == pytest.approx(rounds * body, rel=1e-3)
        assert replay(text).cycles == rounds * 1500
    assert replay(LOOPS).unknown_loops == set()


def test_rounds_for_uneven_loads_do_not_count():
    """Experts with even loads need none of them."""
    text = LOOPS.replace("compare(%j, %four)", "compare(%j, %j)")
    marked = re.sub(r"( while\(.*)", r'\1, metadata={op_name="jit(f)/uneven_loads/while"}', text)
    assert marked != text
    done = replay(marked)
    assert done.unknown_loops == set()
    assert done.uneven_loops == {"first", "second"}
    assert done.cycles == 0


def test_the_hosts_own_work_takes_its_part_and_not_the_chips():
    """It puts a slice into an array; nothing of the array passes the chip's memory."""
    call = """  %begun = ((f32[64,64], f32[1,64]), f32[64,64], s32[]) \
custom-call-start(%kept, %part), custom_call_target="HostExecute"
  ROOT %done = f32[64,64] custom-call-done(%begun)"""
    arrays = "  %kept = f32[64,64]{1,0} parameter(0)\n  %part = f32[1,64]{1,0:S(5)} parameter(1)\n"
    done = replay(
        f"HloModule m, is_scheduled=true\n\nENTRY %main () -> f32[64,64] {{\n{arrays}{call}\n}}\n"
    )
    rate = TPUS["v5e"].host_bandwidth * EXPECTED.host
    assert dict(done.kinds) == {"copy": pytest.approx(64 * 4 / rate)}


def test_a_loop_without_a_count_is_named():
    done = replay(LOOPS.replace("compare(%j, %four)", "compare(%j, %j)"))
    assert done.unknown_loops == {"first", "second"}


def test_a_kernel_without_a_cost_is_named():
    text = re.sub(r'"cost_estimate":\{.*?\}', '"x":{}', EXCHANGES, flags=re.DOTALL)
    assert replay(text).unknown_kernels == {"flash"}
    assert replay(EXCHANGES).unknown_kernels == set()


def test_exchanges_between_slices_are_waited_for_where_they_are_received():
    done = replay(TRANSFER, slices=2)
    (exchange,) = done.exchanges.values()
    assert exchange.is_async
    assert exchange.seconds > DCN_SECONDS
    assert done.seconds == pytest.approx(exchange.seconds)


COPIES = """ENTRY %main (a: f32[1048576]) -> f32[1048576] {
  %a = f32[1048576]{0} parameter(0)
  %copy-start = (f32[1048576]{0:S(1)}, f32[1048576]{0}, u32[]{:S(2)}) copy-start(%a)
  %m = f32[1048576]{0} add(%a, %a), backend_config={"estimated_cycles":"300000000"}
  ROOT %copy-done = f32[1048576]{0:S(1)} copy-done(%copy-start)
}
"""


def test_copies_between_memories_go_on_beside_compute():
    assert replay(COPIES).kinds["copy"] == 0
    alone = replay(re.sub(r"  %m = .*\n", "", COPIES))
    assert alone.kinds["copy"] == pytest.approx(4 * 2**20 / (0.85 * 819e9))
    from_host = replay(
        re.sub(r"  %m = .*\n", "", COPIES).replace("1048576]{0},", "1048576]{0:S(5)},")
    )
    assert from_host.kinds["copy"] == pytest.approx(4 * 2**20 / (0.8 * 16e9))


OTHER_CORE = """%work (x: f32[1048576]) -> f32[1048576] {
  %x = f32[1048576]{0} parameter(0)
  ROOT %y = f32[1048576]{0} add(%x, %x)
}, execution_thread="sparsecore"

ENTRY %main (a: f32[1048576]) -> f32[1048576] {
  %a = f32[1048576]{0} parameter(0)
  %begun = ((), (), (s32[1]{0:T(128)S(2)})) call-start(), async_execution_thread="sparsecore", \
to_apply=%work
  %update = ((f32[1048576]{0}), f32[1048576]{0}) call-update(%begun, %a)
  %m = f32[1048576]{0} add(%a, %a), backend_config={"estimated_cycles":"300000000"}
  ROOT %ended = f32[1048576]{0} call-done(%update)
}
"""


def test_another_core_works_beside():
    assert replay(OTHER_CORE).kinds["copy"] == 0
    alone = replay(re.sub(r"  %m = .*\n", "", OTHER_CORE))
    # Read once, though both operands are this array, and written once.
    assert alone.seconds == pytest.approx(2 * 4 * 2**20 / (0.85 * 819e9))


PARTS = """ENTRY %main (a: f32[8,1048576], i: s32[]) -> f32[1,1048576] {
  %a = f32[8,1048576]{1,0:S(5)} parameter(0)
  %i = s32[] parameter(1)
  %dynamic-slice-start = ((f32[8,1048576]{1,0:S(5)}, s32[], s32[]), f32[1,1048576]{1,0}, \
u32[]{:S(2)}) dynamic-slice-start(%a, %i, %i)
  ROOT %dynamic-slice-done = f32[1,1048576]{1,0} dynamic-slice-done(%dynamic-slice-start)
}
"""


def test_of_what_lies_on_the_host_only_the_part_that_is_needed_moves():
    assert replay(PARTS).kinds["copy"] == pytest.approx(4 * 2**20 / (0.8 * 16e9))
