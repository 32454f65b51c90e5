"""Some numbers at a time in numba's compiled loops: what a CPU's vector registers do, said outright.

LLVM's own vectoriser checks before every short loop whether its arrays overlap, which costs more than the loop where a head has 16 to 64
numbers. Here a value of type `Lanes` is a vector of a fixed count; LLVM splits it over the registers that the machine has.

`unit` is everywhere a tuple of ones: its length is the count, its dtype that of the arithmetic. Indices are of flat arrays and are not
checked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic


class Lanes(types.Type):  # type: ignore[misc]  # numba has no types
    """`count` numbers of one dtype, side by side."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype = dtype
        self.count = count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_default(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(_ELEMENTS[lanes.dtype], lanes.count))


_ELEMENTS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_BYTES = {ir.IntType(16): 2, ir.FloatType(): 4, ir.DoubleType(): 8}
_LANE = ir.IntType(32)


def compiled_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles at the first call per dtypes and count of lanes, and keeps it on disk where the disk allows it."""
    function = inspect.unwrap(function)  # a type checker may stand around it
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)


def _written_in_llvm(function: Callable[..., Any]) -> Any:
    return intrinsic(inspect.unwrap(function))  # a type checker may stand around it


@_written_in_llvm
def zeros(context: Any, unit: Any) -> Any:
    """As many zeros."""
    return _lanes(unit)(unit), lambda context, builder, signature, arguments: ir.Constant(
        context.get_value_type(signature.return_type), None
    )


@_written_in_llvm
def load(context: Any, array: Any, index: Any, unit: Any) -> Any:
    """The numbers of a flat array from `index` on; bfloat16 comes as its sixteen bits, the upper half of a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = _address(context, builder, signature, arguments)
        count, element = signature.return_type.count, start.type.pointee
        found = builder.load(builder.bitcast(start, ir.VectorType(element, count).as_pointer()), align=_BYTES[element])
        if not isinstance(element, ir.IntType):
            return found
        bits = ir.VectorType(_LANE, count)
        upper = builder.shl(builder.zext(found, bits), ir.Constant(bits, [16] * count))
        return builder.bitcast(upper, context.get_value_type(signature.return_type))

    return _lanes(unit)(array, types.intp, unit), generate


@_written_in_llvm
def store(context: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Writes them to a flat array from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = _address(context, builder, signature, arguments)
        builder.store(arguments[2], builder.bitcast(start, arguments[2].type.as_pointer()), align=_BYTES[start.type.pointee])
        return context.get_dummy_value()

    return types.none(array, types.intp, lanes), generate


@_written_in_llvm
def fetch(context: Any, array: Any, index: Any) -> Any:
    """Asks for the line of memory that holds an element of a flat array, and does not wait for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = builder.bitcast(_address(context, builder, signature, arguments), ir.IntType(8).as_pointer())
        kinds = [start.type, _LANE, _LANE, _LANE]
        ask = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0i8")
        # To be read (0), into the second cache (2): the first is too small for what is asked for at once. Data, not instructions (1).
        builder.call(ask, [start, *(ir.Constant(_LANE, number) for number in (0, 2, 1))])
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


@_written_in_llvm
def add_scaled(context: Any, total: Any, factor: Any, lanes: Any) -> Any:
    """total + factor · lanes, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        nothing = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(nothing, arguments[1], ir.Constant(_LANE, 0))
        everywhere = builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_LANE, kind.count), [0] * kind.count))
        return _multiply_add(builder, everywhere, arguments[2], arguments[0])

    return total(total, total.dtype, lanes), generate


@_written_in_llvm
def add_product(context: Any, total: Any, one: Any, other: Any) -> Any:
    """total + one · other, lane by lane."""
    return total(total, one, other), lambda context, builder, signature, arguments: _multiply_add(
        builder, arguments[1], arguments[2], arguments[0]
    )


@_written_in_llvm
def summed(context: Any, lanes: Any) -> Any:
    """The sum over the lanes, in whatever order is fastest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        name = f"llvm.vector.reduce.fadd.{_name(kind)}"
        reduce = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind.element, [kind.element, kind]), name)
        return builder.call(reduce, [ir.Constant(kind.element, -0.0), arguments[0]], fastmath=["reassoc"])

    return lanes.dtype(lanes), generate


def _lanes(unit: Any) -> Lanes:
    return Lanes(unit.dtype, unit.count)


def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Where in memory the element of (array, index, ...) lies."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


def _multiply_add(builder: Any, one: Any, other: Any, total: Any) -> Any:
    kind = total.type
    fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.{_name(kind)}")
    return builder.call(fused, [one, other, total])


def _name(kind: Any) -> str:
    return f"v{kind.count}f{8 * _BYTES[kind.element]}"
