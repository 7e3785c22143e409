"""Edits of an int8 graph before TFLite's converter, and of the file that it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.floating import SAME_SCALE
from edgeloop_exporters.graph import WEIGHTED, aten, layer_name, set_parameter, tensor_of
from edgeloop_exporters.rewrites import call

MIN_SHARED = 256  # bytes
MAX_WHOLE = 1 << 20  # weights
JOINING = {aten.cat.default, aten.stack.default}
ELEMENTWISE = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.maximum.default, aten.minimum.default}
CHOOSING = {aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.masked_fill.Scalar, aten.masked_fill.Tensor}


def mark_floats(module: fx.GraphModule) -> None:
    """The TFLite converter rounds a float layer's weights where rounded values come in and go out, makes an integer softmax of
    a float one, an integer choice where a mask chooses, and joins rounded values by the scale of the first; not behind these two
    sines, which `tidy` takes off again.
    """
    rounded = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    for node in list(module.graph.nodes):
        for source in dict.fromkeys(_read_in_float(module, node)):
            before: Any = source
            while before.target in SAME_SCALE:
                before = before.args[0]
            if before.target is rounded:
                with module.graph.inserting_before(node):
                    once = module.graph.call_function(aten.sin.default, (source,))
                    node.replace_input_with(source, module.graph.call_function(aten.sin.default, (once,)))


def _read_in_float(module: fx.GraphModule, node: Any) -> list[fx.Node]:
    """What this operation reads and the converter must not take for integers."""
    if node.target in CHOOSING:
        return [source for source in node.args if isinstance(source, fx.Node)]
    if node.target in JOINING:
        return [] if _rounds_later(node) else list(node.args[0])
    layer = node.target in WEIGHTED and tensor_of(module, node.args[1]) is not None
    return [node.args[0]] if layer or (node.target is aten.softmax.int and not _has_integer_scale(node)) else []


def _rounds_later(node: fx.Node) -> bool:
    """Whether what it makes is rounded, moved or not."""
    to_integers = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return any(user.target is to_integers or (user.target in SAME_SCALE and _rounds_later(user)) for user in node.users)


def _has_integer_scale(softmax: fx.Node) -> bool:
    """Whether what it makes is rounded as TFLite's integer softmax rounds."""
    to_integers = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return all(user.target is to_integers and user.args[1] == 1 / 256 for user in softmax.users)


def tidy(content: bytes, counts: bool = True) -> bytes:
    """A quantized file without what `mark_floats` put in; the integer tensors behind a leading QUANTIZE and before a trailing
    DEQUANTIZE are its input and output. Where the samples are no `counts` but floats, the leading QUANTIZE stays.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]

    def kind(operator: Any) -> int:
        code = model.operatorCodes[operator.opcodeIndex]
        return int(max(code.builtinCode, code.deprecatedBuiltinCode))

    renamed: dict[int, int] = {}
    aliases: dict[int, int] = {}
    _unmarked(graph, lambda operator: kind(operator) == schema.BuiltinOperator.SIN)
    for operator in list(graph.operators):
        source, result = int(operator.inputs[0]), int(operator.outputs[0])
        # A QUANTIZE of integers is real work: it moves them to another scale.
        floats = graph.tensors[source].type == schema.TensorType.FLOAT32
        leads = counts and kind(operator) == schema.BuiltinOperator.QUANTIZE and source in list(graph.inputs) and floats
        trails = kind(operator) == schema.BuiltinOperator.DEQUANTIZE and result in list(graph.outputs)
        if leads and source in renamed:  # the input is quantized once for each reader, always by the same scale
            aliases[result] = renamed[source]
            graph.operators.remove(operator)
        elif leads or trails:
            renamed[source if leads else result] = result if leads else source
            graph.operators.remove(operator)
    for operator in graph.operators:  # some readers of the input name it itself, and mean it quantized
        operator.inputs = [aliases.get(renamed.get(int(i), int(i)), renamed.get(int(i), int(i))) for i in operator.inputs]
    graph.inputs = [renamed.get(int(i), int(i)) for i in graph.inputs]
    graph.outputs = [renamed.get(int(i), int(i)) for i in graph.outputs]
    for signature in model.signatureDefs or []:
        for tensor in (*signature.inputs, *signature.outputs):
            tensor.tensorIndex = renamed.get(tensor.tensorIndex, tensor.tensorIndex)
    _share_constants(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _share_constants(model: Any) -> None:
    """Equal constants once: several tensors may read one buffer."""
    first: dict[bytes, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) >= MIN_SHARED:
                kept = first.setdefault(bytes(data), tensor.buffer)
                if kept != tensor.buffer:
                    model.buffers[tensor.buffer].data, tensor.buffer = None, kept


def named(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A file whose ports have these names and this order; none given: they stay as they are.

    The converter calls them args_0, args_1, … and output_0, output_1, … in its signature.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph, (signature,) = model.subgraphs[0], model.signatureDefs
    for side, word, names in (("inputs", "args", inputs), ("outputs", "output", outputs)):
        places = {_text(made.name): made for made in getattr(signature, side)}
        made = [places[f"{word}_{number}"] for number in range(len(names))]
        for entry, name in zip(made, names, strict=True):
            graph.tensors[entry.tensorIndex].name = entry.name = name.encode()
        if made:
            setattr(graph, side, [entry.tensorIndex for entry in made])
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _unmarked(graph: Any, is_sine: Callable[[Any], bool]) -> None:
    """Take out what `mark_floats` put in."""
    sines = {int(o.outputs[0]): o for o in graph.operators if is_sine(o)}
    behind = {result: sines[int(o.inputs[0])] for result, o in sines.items() if int(o.inputs[0]) in sines}
    before = {result: int(first.inputs[0]) for result, first in behind.items()}
    gone = {*behind.values(), *(sines[result] for result in behind)}
    graph.operators = [o for o in graph.operators if o not in gone]
    for operator in graph.operators:
        operator.inputs = [before.get(int(i), int(i)) for i in operator.inputs]


def constants_first(module: fx.GraphModule) -> None:
    """constant − x as x · (−1) + constant, and constant ÷ x as x⁻¹ · constant: TFLite's converter folds such an operation into the
    convolution before it as if x came first (100 % of answers became 0 %). Integer operations are converted rightly.
    """
    rounded = (torch.ops.quantized_decomposed.dequantize_per_tensor.default,)
    graph = module.graph
    for node in list(graph.nodes):
        constant, x = _constant_and_operand(node)
        fixed = not isinstance(constant, fx.Node) or tensor_of(module, constant) is not None
        if not fixed or not isinstance(x, fx.Node) or x.target in rounded:
            continue
        divides = node.target in (aten.div.Tensor, aten.reciprocal.default)
        with graph.inserting_before(node):
            operation, factor = (aten.pow.Tensor_Scalar, -1) if divides else (aten.mul.Tensor, -1.0)
            turned = call(graph, node, operation, (x, factor), x.meta.get("val"))
            join = aten.mul.Tensor if divides else aten.add.Tensor
            joined = call(graph, node, join, (turned, constant), node.meta.get("val"))
        node.replace_all_uses_with(joined)
        graph.erase_node(node)
    module.recompile()


def whole_volumes(module: fx.GraphModule) -> None:
    """A convolution over volumes in groups as one over all channels, with zeros: at the other the converter ends the process.

    Raises ModelError where that would be more than MAX_WHOLE weights.
    """
    for node in [n for n in module.graph.nodes if n.target is aten.conv3d.default and len(n.args) > 6 and n.args[6] > 1]:
        read, groups = node.args[1], node.args[6]
        while read.op != "get_attr":
            read = read.args[0]
        weight = tensor_of(module, read)
        assert weight is not None
        if weight.numel() * groups > MAX_WHOLE:
            raise ModelError(
                f"layer {layer_name(node) or '(network)'}: TFLite has no convolution over volumes in {groups} groups; use"
                " one group, or leave TFLite out (export.runtimes)"
            )
        outputs, inputs = weight.shape[0] // groups, weight.shape[1]
        wide = weight.new_zeros((weight.shape[0], inputs * groups, *weight.shape[2:]))
        for group in range(groups):
            rows = slice(group * outputs, (group + 1) * outputs)
            wide[rows, group * inputs : (group + 1) * inputs] = weight.detach()[rows]
        name = f"{node.name}_whole"
        set_parameter(module, name, wide)
        read.target = name
        node.args = (*node.args[:6], 1)
    module.recompile()


def constants_of_four_axes(module: fx.GraphModule) -> None:
    """A constant beside a picture gets the axes that it lacks, of one place each: the converter changes an operation to channels
    last where all that it reads has four axes, and else transposes the whole picture twice, as in every hard-swish.
    """
    for node in [n for n in module.graph.nodes if n.op == "get_attr"]:
        constant, below = tensor_of(module, node), _readers(node)
        if constant is not None and constant.dim() < 4 and below and all(map(_makes_picture, below)):
            name = f"{node.name}_of_four_axes"
            module.register_buffer(name, constant.detach().reshape(*[1] * (4 - constant.dim()), *constant.shape))
            node.target = name
    module.recompile()


def _readers(node: fx.Node) -> list[fx.Node]:
    """The operations that read a tensor, rounded or not."""
    rounding = torch.ops.quantized_decomposed
    made = list[fx.Node]()
    for user in node.users:
        passed = user.target in (rounding.quantize_per_tensor.default, rounding.dequantize_per_tensor.default)
        made += _readers(user) if passed else [user]
    return made


def _makes_picture(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.target in ELEMENTWISE and isinstance(value, torch.Tensor) and value.dim() == 4


def _constant_and_operand(node: fx.Node) -> tuple[Any, Any]:
    """What stands in front of a subtraction or division, and what behind it; nothing for other operations."""
    if node.target is aten.reciprocal.default:
        return 1.0, node.args[0]
    if node.target in (aten.rsub.Scalar, aten.rsub.Tensor):
        return node.args[1], node.args[0]
    if node.target in (aten.sub.Tensor, aten.div.Tensor):
        return node.args[0], node.args[1]
    return None, None
