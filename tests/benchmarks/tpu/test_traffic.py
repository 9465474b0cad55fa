"""Tests of counting the bytes that operations of a TPU program move."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tpu.traffic import Operation, all_reduce_bytes, held_bytes, traffic

SIZES = st.lists(st.integers(1, 300), min_size=2, max_size=4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[]", 4),
        ("s32[]{:T(128)}", 4),
        ("bf16[3,5]{1,0}", 30),  # no tiles
        ("bf16[3,5]{1,0:T(8,128)(2,1)}", 2 * 8 * 128),
        ("bf16[3,5]{0,1:T(8,128)(2,1)}", 2 * 8 * 128),
        ("f32[9,129]{1,0:T(8,128)}", 4 * 16 * 256),
        ("f32[9,129]{0,1:T(8,128)}", 4 * 128 * 136),  # the axis of length 9 changes fastest
        ("pred[16,256,256,64]{3,0,2,1:T(8,128)(4,1)}", 256 * 256 * 16 * 128),
        ("bf16[16,512,512,3]{0,3,2,1:T(4,128)(2,1)}", 2 * 512 * 512 * 4 * 128),
        ("f32[1000]{0:T(1024)}", 4096),
        ("f32[128]{0:T(128)S(1)}", 0),
        ("(f32[128]{0:T(128)S(1)}, bf16[8,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)})", 2048),
        ("token[]", 0),
    ],
)
def test_an_array_takes_whole_tiles_of_main_memory(shape, expected):
    assert held_bytes(shape) == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SIZES, st.randoms(use_true_random=False))
def test_tiles_cover_the_array_with_less_than_a_tile_of_padding_per_axis(sizes, random):
    order = list(range(len(sizes)))
    random.shuffle(order)
    written = f"f32[{','.join(map(str, sizes))}]", ",".join(map(str, order))
    plain, tiled = (held_bytes(f"{written[0]}{{{written[1]}{t}}}") for t in ("", ":T(8,128)"))
    minor, second = sizes[order[0]], sizes[order[1]]
    assert tiled % (4 * 8 * 128) == 0
    assert plain <= tiled < plain * (1 + 128 / minor) * (1 + 8 / second)


PROGRAM = """HloModule jit__fun

%fused (param_0: f32[8,128]) -> f32[8,128] {
  %param_0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %add.9 = f32[8,128]{1,0:T(8,128)} add(%param_0, %param_0)
}

ENTRY %main (a: f32[8,128], b: f32[16,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[16,128]{1,0:T(8,128)} parameter(1)
  %near = f32[8,128]{1,0:T(8,128)S(1)} fusion(%a, %a), calls=%fused, metadata={op_name="IN/down_0"}
  %start = (f32[16,128]{1,0:T(8,128)}, f32[16,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%b)
  %done = f32[16,128]{1,0:T(8,128)} copy-done(%start)
  ROOT %far = f32[8,128]{1,0:T(8,128)} fusion(%near, %a, %done), calls=%fused, metadata={\
op_name="jit(_fun)/transpose(jvp(UNet))/UNet.core/up_0/Norm_0/mul"}
}
"""


def test_an_operation_moves_its_result_and_its_operands():
    tile, copied = 4 * 8 * 128, "(f32[16,128], f32[16,128], u32[])"
    assert traffic(PROGRAM) == [
        Operation("start", copied, "up_0/Norm_0", "backward", 2 * tile, 2 * tile),
        Operation("far", "f32[8,128]", "up_0/Norm_0", "backward", tile, 3 * tile),
        Operation("near", "f32[8,128]", "down_0", "forward", 0, tile),
    ]


def test_an_all_reduce_counts_once_and_without_padding():
    program = """ENTRY %main (a: f32[3,3]) -> f32[] {
  %sums = f32[2,8]{1,0:T(2,128)S(1)} all-reduce(%a), replica_groups={{0,1}}, to_apply=%add
  %both = (f32[3,3]{1,0:T(8,128)}, /*index=1*/bf16[4]{0:T(128)}) all-reduce(%a, %b), to_apply=%add
  %early = f32[5]{0:T(128)} all-reduce-start(%c), to_apply=%add
  %late = f32[5]{0:T(128)} all-reduce-done(%early)
  ROOT %scalar = f32[]{:T(128)} all-reduce(%d), to_apply=%add, metadata={op_name="a/psum"}
}
"""
    assert all_reduce_bytes(program) == 4 * 16 + 4 * 9 + 2 * 4 + 4 * 5 + 4
