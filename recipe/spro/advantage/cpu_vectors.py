"""What the CPU kernels need that numba has not: prefix sums of whole vectors, and prefetching, as LLVM instructions."""

from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Tokens that the prefix sum takes at a time: one AVX-512 register, two of AVX2, four of NEON.
LANES = 16

# NaN and infinity keep their meaning. Sums may be reordered, at compile time: that makes vectors of them, and two runs
# give the same bits. These loops allocate nothing; without numba's reference counts (_nrt) a slice costs nothing.
_OPTIONS: dict[str, Any] = dict(nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"}, _nrt=False)


# Of all that is compiled together. numba compiles anew when a function's own file has changed, and looks at no other.
_SOURCES = sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("cpu_*.py"))))


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at the first call, and kept on disk where a folder can be written."""
    # The name of the file that it is kept in.
    function.__qualname__ += f"_{_SOURCES.hexdigest()[:12]}"
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:
        # numba finds neither this folder nor a user's cache writable: each process compiles for itself.
        return njit(**_OPTIONS)(function)


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Part of the loops that call it."""
    return njit(forceinline=True, **_OPTIONS)(function)


def inline_as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, rounded as written: M has the same bits whether the outcome is added now or later."""
    return njit(forceinline=True, **{**_OPTIONS, "fastmath": False})(function)


_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


def _lane_numbers(numbers: Iterable[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), [ir.IntType(32)(n) for n in numbers])


def _everywhere(builder: Any, scalar: Any) -> Any:
    """A vector of one float32."""
    first = builder.insert_element(_UNDEFINED, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, _UNDEFINED, _lane_numbers([0] * LANES))


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Where LANES values of an array start."""
    of_values = ir.VectorType(context.get_data_type(kind.dtype), LANES)
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), of_values.as_pointer())


def _load(builder: Any, place: Any) -> Any:
    return builder.load(place, align=4)


def _prefix_sum(builder: Any, values: Any, carry: Any, zero: Any, here: Any, there: Any) -> Any:
    """Store the prefix sum of a vector plus `carry` at `here`, add it to what is at `there`; return the new carry.

    LLVM finds no prefix sums by itself: these are the shifted additions of Hillis and Steele.
    """
    # A zero that the compiler cannot see is one: for a known zero it takes an instruction (vexpandps) whose result
    # waits for the previous block on AMD, three times slower in all.
    zeros = _everywhere(builder, zero)
    shift = 1
    while shift < LANES:
        shifted = builder.shuffle_vector(zeros, values, _lane_numbers(range(LANES - shift, 2 * LANES - shift)))
        values = builder.fadd(values, shifted)
        shift *= 2
    total = builder.extract_element(values, ir.IntType(32)(LANES - 1))
    values = builder.fadd(values, _everywhere(builder, builder.fptrunc(carry, ir.FloatType())))
    builder.store(values, here, align=4)
    builder.store(builder.fadd(_load(builder, there), values), there, align=4)
    return builder.fadd(carry, builder.fpext(total, ir.DoubleType()))


@intrinsic
def scan(typingctx: Any, local: Any, at: Any, sums: Any, carry: Any, zero: Any) -> Any:
    """scan(local, at, sums, carry, zero): a prefix sum over LANES values.

    local[at:at+LANES] becomes its prefix sum plus `carry`, and is added to sums[at:at+LANES]; returns the new carry.
    """
    signature = types.float64(local, types.int64, sums, types.float64, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        local, at, sums, carry, zero = arguments
        here = _place(context, builder, signature.args[0], local, at)
        there = _place(context, builder, signature.args[2], sums, at)
        return _prefix_sum(builder, _load(builder, here), carry, zero, here, there)

    return signature, generate


@intrinsic
def scan_differences(
    typingctx: Any, log_probs: Any, start: Any, ref: Any, ref_start: Any, local: Any, at: Any, sums: Any, carry: Any,
    zero: Any,
) -> Any:  # fmt: skip
    """The same, local[at:at+LANES] being first set to log_probs[start:] - ref[ref_start:], which stays in registers."""
    integer, real = types.int64, types.float64
    signature = real(log_probs, integer, ref, integer, local, integer, sums, real, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        log_probs, start, ref, ref_start, local, at, sums, carry, zero = arguments
        kinds = signature.args
        values = _load(builder, _place(context, builder, kinds[0], log_probs, start))
        others = _load(builder, _place(context, builder, kinds[2], ref, ref_start))
        if not values.type == others.type == _VECTOR:
            # float64 log-probs: rounded after the subtraction.
            wide = ir.VectorType(ir.DoubleType(), LANES)
            values, others = (v if v.type == wide else builder.fpext(v, wide) for v in (values, others))
        values = builder.fsub(values, others)
        if values.type != _VECTOR:
            values = builder.fptrunc(values, _VECTOR)
        here = _place(context, builder, kinds[4], local, at)
        return _prefix_sum(builder, values, carry, zero, here, _place(context, builder, kinds[6], sums, at))

    return signature, generate


def _prefetch_intrinsic(write: int) -> Any:
    @intrinsic
    def prefetch(typingctx: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            i32, byte = ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
            builder.call(function, [place, i32(write), i32(3), i32(1)])
            return context.get_dummy_value()

        return types.void(array, types.int64), generate

    return prefetch


# prefetch(array, index): have array[index] in the cache by the time it is needed. Rows of a group lie apart, and their
# tiles are too short for the hardware to guess. An address outside the array does no harm.
prefetch_read = _prefetch_intrinsic(0)
prefetch_write = _prefetch_intrinsic(1)
