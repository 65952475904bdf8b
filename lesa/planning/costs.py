"""What the method's own stages cost, from shapes alone: work, memory and disk.

Memory is what a stage holds at once at its peak, beyond the interpreter and its libraries. Pages
of memory-mapped files are not in it: the system takes them back when it needs room. A rank is
counted as full, a matrix multiplication `(m, k) @ (k, n)` as 2·m·k·n. In the docstrings `d1, d2`
are a matrix, `r = min(d1, L·d2)`, `L` the base's layers, `b` the bytes of a stored parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

from lesa.checkpoints.reader import SHARD_BYTES
from lesa.method.basis import ROWS
from lesa.method.coefficients import IN_MEMORY_BYTES
from lesa.method.predictor import SCORED_ROWS
from lesa.params import Predictor
from lesa.planning.architecture import Architecture
from lesa.planning.launch import ALONE, Launch
from lesa.upscaling.plan import LayerPlan

# Units of work. The first four are floating-point operations: of matrix products, by their
# precision, and of the reduction to tridiagonal or bidiagonal form, which has a rate of its own
# as half of it is bound by memory. The others are bytes moved in memory, and to and from disk.
FLOPS = ("float64", "float32", "bfloat16", "reduction")
UNITS = (*FLOPS, "memory", "disk")
Work = dict[str, float]


@dataclass(frozen=True)
class Cost:
    """One run of a stage.

    work: by unit, see UNITS. memory: bytes at the peak, on the accelerator if the stage is
    `accelerated` and there is one. output: bytes it leaves to DVC. scratch: bytes on disk
    that are gone when it ends. outside: bytes it leaves where DVC does not look, as in the hub's
    cache. processes: that run at once on a machine. host: bytes at the peak in main memory when
    accelerators hold the rest. launch: processes that share the work; `memory` is of one of them.
    """

    work: Work
    memory: int
    output: int = 0
    scratch: int = 0
    outside: int = 0
    processes: int = 1
    accelerated: bool = False
    host: int = 0
    launch: Launch = ALONE

    @property
    def flops(self) -> float:
        return sum(self.work.get(unit, 0.0) for unit in FLOPS)


def added(*parts: Work) -> Work:
    return {unit: sum(part.get(unit, 0.0) for part in parts) for unit in UNITS}


def times(count: float, work: Work) -> Work:
    return {unit: count * amount for unit, amount in work.items()}


def base(a: Architecture, source: str) -> Cost:
    """Copy a checkpoint (`path`, `hub`), dequantise one (`package`) or draw one (`random`).

    A copy holds nothing. A GGUF file is read into float32 tensors beside the model that takes
    them. A hub's checkpoint stays in the hub's cache as well, counted as on the same disk. The
    wheel of a package is not counted.
    """
    parameters = a.parameters(a.layers)
    size = a.itemsize * parameters
    copies = {"package": 8, "random": 4}.get(source, 0)
    return Cost(
        {"disk": 3.0 * size, "memory": 2.0 * copies * parameters},
        memory=copies * parameters,
        output=size,
        outside=size if source == "hub" else 0,
    )


def extract(a: Architecture) -> Cost:
    """Gram matrices, in float64: 2·d1²·d2 a layer, of wide ones down to half of it.

    Held: a layer's matrix as stored, its float64 copy beside the previous layer's, and the Gram
    matrix: (b + 16)·d1·d2 + 8·d1², whatever the depth.
    """
    work, peak, output = Work(), 0, 0
    for d1, d2 in a.kinds.values():
        read = a.layers * a.itemsize * d1 * d2
        blocks = ((top, min(top + ROWS, d1)) for top in range(0, d1, ROWS))
        entries = sum((end - top) * end for top, end in blocks)  # only up to the diagonal
        product = {"float64": 2.0 * a.layers * entries * d2, "disk": read + 2.0 * 8 * d1 * d1}
        work = added(work, product)
        peak = max(peak, (a.itemsize + 16) * d1 * d2 + 8 * d1 * d1)
        output += 8 * d1 * d1
    return Cost(work, peak, output)


def structure_work(d1: int, d2: int, count: int) -> Work:
    """`lesa.method.structure` of `count` matrices: a float64 Gram matrix of the shorter side and
    its eigenvalues, 4/3·n³ for the reduction."""
    n, m = sorted((d1, d2))
    return times(count, {"float64": 2.0 * n * n * m, "reduction": 4 / 3 * n**3})


def structure_memory(a: Architecture, d1: int, d2: int) -> int:
    """The matrix as stored and four float64 ones of its shape; Gram matrix and its copy."""
    return (a.itemsize + 32) * d1 * d2 + 16 * min(d1, d2) ** 2


def svd(a: Architecture, method: str) -> Cost:
    """Basis of each kind, its layers' top coefficients and structure.

    `gram`: eigenvectors of a d1 × d1 matrix, 4/3·d1³ for the reduction and 2·d1³ to turn its
    vectors back. Held: the Gram matrix and its eigenvectors, 16·d1²; later the basis, in the Gram
    matrix's memory, and what one layer needs. Counted in float64, at most: where float32 will do
    (`lesa.method.basis.well_conditioned`), it takes half the time and 12·d1². `concat`: an SVD of
    d1 × L·d2, 6·m·n² + 20·n³ (Golub and Van Loan, Matrix Computations, 4th edition, figure
    8.6.1), of which 4·m·n² is the reduction; held three times in float32.
    """
    work, peak, output = Work(), 0, 0
    for kind, (d1, d2) in a.kinds.items():
        r, n = a.rank(kind), d1 * d2
        if method == "gram":
            decompose = {"reduction": 4 / 3 * d1**3, "float64": 2.0 * d1**3, "disk": 8.0 * d1 * d1}
            held, kept = 16 * d1 * d1, 8 * d1 * d1
        else:
            short, long = sorted((d1, a.layers * d2))
            decompose = {
                "reduction": 4.0 * long * short**2,
                "float32": 2.0 * long * short**2 + 20.0 * short**3,
                "disk": float(a.layers * a.itemsize * n),
            }
            held, kept = 4 * (3 * a.layers * n + 3 * d1 * d1), 4 * d1 * r
        basis = 4 * (d1 * r + r)
        layers = {"float32": 2.0 * a.layers * n, "disk": 2.0 * a.layers * a.itemsize * n}
        work = added(work, decompose, layers, structure_work(d1, d2, a.layers))
        peak = max(peak, held, kept + structure_memory(a, d1, d2))
        output += basis
    return Cost(added(work, {"disk": 2.0 * output}), peak, output)


def predictor_parameters(d2: int, hidden_size: int) -> int:
    """Of G_W (`lesa.method.predictor.network`), biases too."""
    h = hidden_size
    return (2 * d2 + 1) * h + (h + 1) * h + (h + 1) * d2


def fit(a: Architecture, settings: Predictor, heldout_every: int, workers: int) -> Cost:
    """Predictors of the seven kinds, `workers` at once, on CPU one thread each.

    An example passes forward (2·P), gives gradients of the weights (2·P) and of all but the first
    layer's inputs. Every row of all triples is seen `epochs` times, and all but the held-out
    triples' again by the second predictor; then both are scored. AdamW moves its state each step.

    Coefficients lie in a file, 4·L·r·d2 bytes a kind, read whole only if small
    (`lesa.method.coefficients`). Held by a worker: basis, a layer and its coefficients while these
    are made, later the predictor that is kept, and of the one in training weights, gradients and
    two moments, beside a scored chunk's inputs, targets, predictions and their errors, squared too.
    """
    work, output = Work(), 0
    memory: list[int] = []
    files: list[int] = []
    triples = a.layers - 2
    held = len(range(heldout_every - 1, triples, heldout_every))
    fits = [triples] + [triples - held] * bool(held)
    for kind, (d1, d2) in a.kinds.items():
        r, h = a.rank(kind), settings.hidden_size
        p = predictor_parameters(d2, h)
        examples = settings.epochs * sum(fits) * r
        steps = settings.epochs * sum(-(-count * r // settings.batch_size) for count in fits)
        scored = 2.0 * p * (triples + held) * r
        trained = examples * (6.0 * p - 2.0 * (2 * d2 * h))
        file = 4 * a.layers * r * d2
        work = added(
            work,
            {
                "float32": 2.0 * a.layers * r * d1 * d2 + trained + scored,
                # Weights and gradients three times, parameter and moments read and written;
                # the rows of a batch gathered, joined and used.
                "memory": 4.0 * (12 * p * steps + 12 * d2 * examples),
                "disk": 2.0 * file + a.layers * a.itemsize * d1 * d2,
            },
        )
        making = 4 * d1 * r + (a.itemsize + 4) * d1 * d2 + 8 * r * d2
        held_file = file if file <= IN_MEMORY_BYTES else 0
        memory.append(max(making, 20 * p + 24 * min(r, SCORED_ROWS) * d2 + held_file))
        files.append(file)
        output += 4 * p
    return Cost(
        work,
        memory=sum(sorted(memory)[-workers:]),
        output=output,
        scratch=sum(sorted(files)[-workers:]) + output,
        processes=workers + 1,
        accelerated=True,
        host=sum(sorted(memory)[-workers:]),
    )


def _one_matrix(a: Architecture, kind: str, method: str, hidden_size: int) -> tuple[Work, int]:
    """Making one new matrix of a kind: work, and memory beside the shard that is written."""
    d1, d2 = a.kinds[kind]
    r, n, stored = a.rank(kind), d1 * d2, a.itemsize * d1 * d2
    if method == "lesa":
        # Both neighbours by the first layer of G_W, Uᵀ by that, the second layer, U by what it
        # gives and a column for the last bias, then the last layer.
        h, p = hidden_size, predictor_parameters(d2, hidden_size)
        products = 2 * n * h + d1 * r * h + r * h * h + (d1 * r + n) * (h + 1)
        work = {"float32": 2.0 * products, "memory": 12.0 * d1 * r + 20.0 * n}
        return work, 4 * (d1 * r + p) + 3 * stored + 4 * n + 8 * (d1 + r) * (h + 1)
    if method == "noise":
        return {"memory": 24.0 * n}, 2 * stored + 12 * n
    if method == "spectrum":
        # Singular values of (d1, d2); QR of two Gaussian matrices with k columns; their product.
        k, m = sorted((d1, d2))
        qr = 4.0 * k * k * (d1 + d2) - 8 / 3 * k**3
        work = {
            "reduction": 4.0 * m * k * k - 4 / 3 * k**3,
            "float32": qr + 2.0 * k * n,
            "memory": 24.0 * n,
        }
        return work, 2 * stored + 8 * n + 12 * (d1 + d2) * k
    # Copies and means: next to nothing is computed.
    return {"memory": 16.0 * n}, 2 * stored + 12 * n


def expand(a: Architecture, plan: LayerPlan, method: str, hidden_size: int) -> Cost:
    """Write the deepened checkpoint, then measure norms and structure of the new layers.

    Held: one shard, and what one new matrix needs: LESA the basis, two neighbours, the
    prediction as computed and as stored, 4·d1·r + (3·b + 4)·d1·d2, and hidden_size columns. A
    method this module does not know is counted as one that copies. `hidden_size` is that of the
    predictors LESA reads.
    """
    new = sum(slot.new for slot in plan)
    size = a.itemsize * a.parameters(len(plan))
    largest = a.itemsize * max(a.vocabulary * a.hidden, *(x * y for x, y in a.kinds.values()))
    work: Work = {"disk": 3.0 * size + a.itemsize * a.parameters(a.layers), "memory": 2.0 * size}
    making, measuring = largest, 0
    for kind, (d1, d2) in a.kinds.items():
        one, held = _one_matrix(a, kind, method, hidden_size)
        work = added(work, times(new, one), structure_work(d1, d2, new))
        if new:
            making, measuring = max(making, held), max(measuring, structure_memory(a, d1, d2))
    return Cost(work, max(max(SHARD_BYTES, largest) + making, measuring), output=size)
