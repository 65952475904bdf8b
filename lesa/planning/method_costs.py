"""What the method's own stages cost, from shapes alone: work, memory and disk.

Memory is what a stage holds at once at its peak, beyond the interpreter and its libraries. Pages
of memory-mapped files are not in it: the system takes them back when it needs room. A rank is
counted as full, a matrix multiplication `(m, k) @ (k, n)` as 2·m·k·n. In the docstrings `d1, d2`
are a matrix, `r = min(d1, L·d2)`, `L` the base's layers, `b` the bytes of a stored parameter. A
tensor that fuses several matrices counts as the one that is read from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lesa.checkpoints.writer import SHARD_BYTES
from lesa.method.basis import ROWS
from lesa.method.coefficients import IN_MEMORY_BYTES
from lesa.method.fitting import splits, worker_devices
from lesa.method.predictor import SCORED_ROWS
from lesa.params import Predictor
from lesa.planning.architecture import Architecture
from lesa.planning.cost import Cost, Work, added, times
from lesa.upscaling.plan import LayerPlan


def base(a: Architecture, source: str) -> Cost:
    """Copy a checkpoint (`path`, `hub`), dequantise one (`package`) or draw one (`random`).

    A copy holds nothing. A GGUF file is read into float32 tensors beside the model that takes
    them. A hub's checkpoint stays in the hub's cache as well, counted as on the same disk. The
    wheel of a package is not counted.
    """
    parameters = a.parameters(a.num_layers)
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
        read = a.num_layers * a.itemsize * d1 * d2
        blocks = ((top, min(top + ROWS, d1)) for top in range(0, d1, ROWS))
        entries = sum((end - top) * end for top, end in blocks)  # only up to the diagonal
        product = {"float64": 2.0 * a.num_layers * entries * d2, "disk": read + 2.0 * 8 * d1 * d1}
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
            decomposing, basis_memory = 16 * d1 * d1, 8 * d1 * d1
        else:
            short, long = sorted((d1, a.num_layers * d2))
            decompose = {
                "reduction": 4.0 * long * short**2,
                "float32": 2.0 * long * short**2 + 20.0 * short**3,
                "disk": float(a.num_layers * a.itemsize * n),
            }
            decomposing, basis_memory = 4 * (3 * a.num_layers * n + 3 * d1 * d1), 4 * d1 * r
        basis = 4 * (d1 * r + r)
        layers = {"float32": 2.0 * a.num_layers * n, "disk": 2.0 * a.num_layers * a.itemsize * n}
        work = added(work, decompose, layers, structure_work(d1, d2, a.num_layers))
        peak = max(peak, decomposing, basis_memory + structure_memory(a, d1, d2))
        output += basis
    return Cost(added(work, {"disk": 2.0 * output}), peak, output)


def predictor_parameters(d2: int, hidden_size: int) -> int:
    """Of G_W (`lesa.method.predictor.network`), biases too."""
    h = hidden_size
    return (2 * d2 + 1) * h + (h + 1) * h + (h + 1) * d2


def fit(a: Architecture, settings: Predictor, heldout_every: int, cores: int, gpus: int) -> Cost:
    """Predictors of all kinds, as many at once as there are GPUs or else cores, one thread each.

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
    kind_splits = splits(a.num_layers, heldout_every).values()
    fits = [len(split.fitted) for split in kind_splits]
    workers = len(worker_devices(cores, gpus, len(a.kinds) * len(fits)))
    for kind, (d1, d2) in a.kinds.items():
        r, h = a.rank(kind), settings.hidden_size
        p = predictor_parameters(d2, h)
        examples = settings.epochs * sum(fits) * r
        steps = settings.epochs * sum(-(-count * r // settings.batch_size) for count in fits)
        scored = 2.0 * p * sum(len(split.scored) for split in kind_splits) * r
        trained = examples * (6.0 * p - 2.0 * (2 * d2 * h))
        file = 4 * a.num_layers * r * d2
        work = added(
            work,
            {
                "float32": 2.0 * a.num_layers * r * d1 * d2 + trained + scored,
                # Weights and gradients three times, parameter and moments read and written;
                # the rows of a batch gathered, joined and used.
                "memory": 4.0 * (12 * p * steps + 12 * d2 * examples),
                "disk": 2.0 * file + a.num_layers * a.itemsize * d1 * d2,
            },
        )
        making = 4 * d1 * r + (a.itemsize + 4) * d1 * d2 + 8 * r * d2
        in_memory = file if file <= IN_MEMORY_BYTES else 0
        held = max(making, 20 * p + 24 * min(r, SCORED_ROWS) * d2 + in_memory)
        memory += [held] * len(fits)
        files.append(file)
        output += 4 * p
    at_once = sum(sorted(memory)[-workers:])
    return Cost(
        work,
        memory=max(memory) if gpus else at_once,  # of each GPU
        output=output,
        scratch=sum(sorted(files)[-workers:]) + output,
        processes=workers + 1,
        accelerated=True,
        host=at_once,
    )


def prediction(a: Architecture, kind: str, hidden_size: int) -> tuple[Work, int]:
    """LESA's prediction of a matrix (`lesa.method.prediction.predict`): work, and bytes held.

    Both neighbours meet the first layer of G_W, Uᵀ what that gives, then the second layer, U what
    that gives and a column for the last bias, then the last layer. Held: the basis, two neighbours,
    the prediction as computed and as stored, and hidden_size columns.
    """
    d1, d2 = a.kinds[kind]
    r, n, h = a.rank(kind), d1 * d2, hidden_size
    products = 2 * n * h + d1 * r * h + r * h * h + (d1 * r + n) * (h + 1)
    work = {"float32": 2.0 * products, "memory": 12.0 * d1 * r + 20.0 * n}
    basis_and_predictor = 4 * (d1 * r + predictor_parameters(d2, h))
    return work, basis_and_predictor + (3 * a.itemsize + 4) * n + 8 * (d1 + r) * (h + 1)


def write(a: Architecture, plan: LayerPlan, hidden_sizes: Sequence[int]) -> Cost:
    """Write a deepened checkpoint (`lesa.upscaling.expand`).

    `hidden_sizes`: of each set of predictors that the method reads; for each it computes LESA's
    prediction. All else a method does counts as copying a matrix, so a control's random matrices
    and their decompositions, or an alignment of neighbours, are not counted. Held: a shard, the
    layer that is written, and what one prediction needs or two neighbouring layers and a mean.
    """
    new = sum(slot.new for slot in plan)
    read, size = (a.itemsize * a.parameters(layers) for layers in (a.num_layers, len(plan)))
    layer, embedding = a.itemsize * a.layer_parameters, a.itemsize * a.embedding_parameters
    work: Work = {"disk": 3.0 * size + read, "memory": 2.0 * size}
    writing = max(embedding, layer)
    for kind, (d1, d2) in a.kinds.items():
        copying = [({"memory": 16.0 * d1 * d2}, 2 * layer + 12 * d1 * d2)]
        parts = [prediction(a, kind, h) for h in hidden_sizes] or copying
        work = added(work, *(times(new, part) for part, _ in parts))
        if new:
            writing = max(writing, layer + max(held for _, held in parts))
    return Cost(work, max(SHARD_BYTES, embedding) + writing, output=size)


def expand(a: Architecture, plan: LayerPlan, hidden_sizes: Sequence[int]) -> Cost:
    """`write`, then measure norms and structure of the new layers."""
    written, new = write(a, plan, hidden_sizes), sum(slot.new for slot in plan)
    shapes = a.kinds.values()
    work = added(written.work, *(structure_work(d1, d2, new) for d1, d2 in shapes))
    measuring = max(structure_memory(a, d1, d2) for d1, d2 in shapes) if new else 0
    return replace(written, work=work, memory=max(written.memory, measuring))
