"""Scheduled programs as the TPU compiler writes them, cut to what a test needs."""

from jaxllm.aot.hlo import parse_hlo

# Two loops of 4 and 3 rounds; the first keeps 4 x 64 floats for the second, in HBM.
LOOPS = """HloModule step, is_scheduled=true

FileNames
1 "/somewhere/jaxllm/nn/mlp.py"
2 "/somewhere/jaxllm/nn/linear.py"
3 "/somewhere/jaxllm/nn/stack.py"

FunctionNames
1 "call"

FileLocations
1 {file_name_id=1 function_name_id=1 line=61 end_line=61 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=52 end_line=52 column=1 end_column=2}
3 {file_name_id=3 function_name_id=1 line=49 end_line=49 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=1}

%body (p: (s32[], f32[64], f32[4,64])) -> (s32[], f32[64], f32[4,64]) {
  %p = (s32[]{:T(128)}, f32[64]{0:T(128)S(1)}, /*index=2*/f32[4,64]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %copied = s32[]{:T(128)S(6)} copy(%i)
  %x = f32[64]{0:T(128)S(1)} get-tuple-element(%p), index=1
  %all = f32[4,64]{1,0:T(8,128)} get-tuple-element(%p), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%copied, %one)
  %y = f32[64]{0:T(128)S(1)} multiply(%x, %x), metadata={op_name="step/mul" stack_frame_id=2}, \
backend_config={"estimated_cycles":"1500"}
  ROOT %out = (s32[], f32[64]{0:T(128)S(1)}, f32[4,64]{1,0:T(8,128)}) tuple(%next, %y, %all)
}

%condition (q: (s32[], f32[64], f32[4,64])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[64]{0:T(128)S(1)}, f32[4,64]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %four = s32[]{:T(128)} constant(4)
  ROOT %less = pred[]{:T(512)} compare(%j, %four), direction=LT
}

ENTRY %main (a: f32[64]) -> f32[64] {
  %a = f32[64]{0:T(128)S(1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %nothing = f32[4,64]{1,0:T(8,128)} broadcast(%a), dimensions={1}
  %start = (s32[], f32[64]{0:T(128)S(1)}, f32[4,64]{1,0:T(8,128)}) tuple(%zero, %a, %nothing)
  %first = (s32[], f32[64]{0:T(128)S(1)}, f32[4,64]{1,0:T(8,128)}) while(%start), \
condition=%condition, body=%body
  %b = f32[64]{0:T(128)S(1)} get-tuple-element(%first), index=1
  %kept = f32[4,64]{1,0:T(8,128)} get-tuple-element(%first), index=2
  %begin = s32[]{:T(128)} constant(1)
  %again = (s32[], f32[64]{0:T(128)S(1)}, f32[4,64]{1,0:T(8,128)}) tuple(%begin, %b, %kept)
  %second = (s32[], f32[64]{0:T(128)S(1)}, f32[4,64]{1,0:T(8,128)}) while(%again), \
condition=%condition, body=%body
  ROOT %result = f32[64]{0:T(128)S(1)} get-tuple-element(%second), index=1
}
"""

# A gather that goes on while a matmul of 3,000,000 cycles runs, an all-reduce that does not, and
# a kernel whose attributes span lines.
EXCHANGES = """HloModule step, is_scheduled=true

%product (x: bf16[512,512], y: bf16[512,512]) -> bf16[512,512] {
  %x = bf16[512,512]{1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[512,512]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[512,512]{1,0:T(8,128)(2,1)} convolution(%x, %y), dim_labels=bf_io->bf
}

%begun (s: bf16[32,512]) -> (bf16[32,512], bf16[512,512], u32[]) {
  %s = bf16[32,512]{1,0:T(8,128)(2,1)} parameter(0)
  %g = bf16[512,512]{1,0:T(8,128)(2,1)} all-gather(%s), channel_id=7, \
replica_groups=mesh['axis_0'=16] {'axis_0'}, dimensions={0}, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
  ROOT %cs = (bf16[32,512]{1,0}, bf16[512,512]{1,0}, u32[]{:S(2)}) custom-call(%g), \
custom_call_target="AsyncCollectiveStart"
}

%ended (t: bf16[32,512]) -> bf16[512,512] {
  %t = bf16[32,512]{1,0:T(8,128)(2,1)} parameter(0)
  %h = bf16[512,512]{1,0:T(8,128)(2,1)} all-gather(%t), channel_id=7, \
replica_groups=mesh['axis_0'=16] {'axis_0'}, dimensions={0}, \
backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
  ROOT %cd = bf16[512,512]{1,0:T(8,128)(2,1)} custom-call(%t, %h), \
custom_call_target="AsyncCollectiveDone"
}

%add (l: bf16[], r: bf16[]) -> bf16[] {
  %l = bf16[] parameter(0)
  %r = bf16[] parameter(1)
  ROOT %s.1 = bf16[] add(%l, %r)
}

ENTRY %main (w: bf16[32,512], v: bf16[512,512]) -> bf16[512,512] {
  %w = bf16[32,512]{1,0:T(8,128)(2,1)} parameter(0)
  %v = bf16[512,512]{1,0:T(8,128)(2,1)} parameter(1)
  %gather-start = (bf16[32,512]{1,0}, bf16[512,512]{1,0}, u32[]{:S(2)}) fusion(%w), \
kind=kCustom, calls=%begun
  %m = bf16[512,512]{1,0:T(8,128)(2,1)} fusion(%v, %v), kind=kOutput, calls=%product, \
backend_config={"window_config":{"estimated_cycles":"3000000"}}
  %part = bf16[32,512]{1,0} get-tuple-element(%gather-start), index=0
  %gathered = bf16[512,512]{1,0:T(8,128)(2,1)} fusion(%part), kind=kCustom, calls=%ended
  %reduced = bf16[512,512]{1,0:T(8,128)(2,1)} all-reduce(%m), channel_id=8, \
replica_groups={{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}, to_apply=%add
  ROOT %flash = bf16[512,512]{1,0:T(8,128)(2,1)} custom-call(%gathered, %reduced), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"note":"several lines"
}}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"1970000000","transcendentals":\
"0","bytes_accessed":"1024"}}}
}
"""

# A step of a pipeline of slices: 2 MiB reduced through the data-centre network.
TRANSFER = """HloModule step, is_scheduled=true

ENTRY %main (w: bf16[1024,1024]) -> bf16[1024,1024] {
  %w = bf16[1024,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %token = token[] after-all()
  %send = (bf16[1024,1024]{1,0}, u32[]{:S(2)}, token[]) send(%w, %token), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="r_0",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (bf16[1024,1024]{1,0}, u32[]{:S(2)}, token[]) recv(%token), channel_id=1, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="r_0",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %recv-done = (bf16[1024,1024]{1,0}, token[]) recv-done(%recv), channel_id=1
  ROOT %sum = bf16[1024,1024]{1,0} get-tuple-element(%recv-done), index=0
}
"""


def entry_instruction(text, name):
    """The module and one instruction of its entry."""
    module = parse_hlo(text)
    return module, module.entry.instructions[name]
