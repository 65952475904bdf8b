"""What passes of a whole model cost: spread, pretrain and evaluate. Terms as in `costs.py`.

`P` are parameters, `V` the vocabulary, `T` tokens, `s` tokens of a sequence, `d` the hidden width.
"""

from __future__ import annotations

from lesa.params import Evaluate, Train
from lesa.planning.architecture import Architecture
from lesa.planning.costs import Cost, Work, added, expand, times
from lesa.planning.launch import ALONE, Launch
from lesa.training.head_loss import ROWS
from lesa.upscaling.plan import LayerPlan

# Upper bounds in tokens, at four characters a token, of what eval/offline.py builds: a document;
# a passage and its last word; a context with each of four sentences.
DOCUMENT_TOKENS = 500
PASSAGE_TOKENS = 60
CHOICE_TOKENS = 4 * (60 + 28)


def layer_matrices(a: Architecture) -> int:
    """Parameters of a layer that are multiplied with every token."""
    return sum(d1 * d2 for d1, d2 in a.kinds.values())


def forward_flops(a: Architecture, layers: int, tokens: int, length: int, head: bool) -> float:
    """2·T·P of matrix products, and attention's 4·T·s·(heads' width) a layer, causal or not."""
    products = layers * layer_matrices(a) + head * a.vocabulary * a.hidden
    attention = 2.0 * layers * length * a.kinds["q_proj"][0]
    return 2.0 * tokens * (products + attention)


def activation_bytes(a: Architecture, bf16: bool, trains: bool) -> int:
    """Kept for the backward pass by one layer for one token.

    Of each norm its input, in float32; rotated queries, keys and values, attention's output;
    three of the feed-forward width. A layer that trains also keeps what its weights multiply: of
    each norm two more, or under autocast one and each projection's input in bfloat16; attention's
    joined output and one more of the feed-forward width.
    """
    q, k, d = a.kinds["q_proj"][0], a.kinds["k_proj"][0], a.hidden
    i, element = a.kinds["gate_proj"][0], 2 if bf16 else 4
    frozen = 8 * d + element * (2 * q + 2 * k + 3 * i)
    if not trains:
        return frozen
    return frozen + (8 * d + 2 * 5 * d if bf16 else 16 * d) + element * (q + i)


def precision(bf16: bool) -> tuple[str, int]:
    """The unit of work and the bytes of an element."""
    return ("bfloat16", 2) if bf16 else ("float32", 4)


def held_out(
    a: Architecture, layers: int, blocks: int, length: int, batch: int, bf16: bool
) -> Cost:
    """Load in float32 and score (`lesa.training.heldout.held_out`).

    Held: 4·P; the batch's logits, one row of them and its log-softmax in float32; under autocast
    each weight's copy in bfloat16, kept to the end of a pass.
    """
    unit, element = precision(bf16)
    cast = 2 * (layers * layer_matrices(a) + a.vocabulary * a.hidden) if bf16 else 0
    passes = -(-blocks // batch)
    work: Work = {
        unit: forward_flops(a, layers, blocks * length, length, head=True),
        "memory": 3.0 * passes * cast + 12.0 * blocks * length * a.vocabulary,
        "disk": float(a.itemsize * a.parameters(layers)),
    }
    logits = a.vocabulary * length * (batch * element + 8)
    hidden = batch * length * activation_bytes(a, bf16, trains=True)
    return Cost(work, 4 * a.parameters(layers) + cast + logits + hidden)


def spread(
    a: Architecture,
    plan: LayerPlan,
    hidden_size: int,
    seeds: int,
    blocks: int,
    length: int,
    train: Train,
) -> Cost:
    """For each seed expand LESA and two controls and score each; the base once.

    On the CPU. On disk at once: LESA's checkpoint and one control's.
    """

    def scored(layers: int) -> Cost:
        return held_out(a, layers, blocks, length, train.per_device_batch_size, train.bf16)

    made = [expand(a, plan, name, hidden_size) for name in ("lesa", "noise", "spectrum")]
    deep = scored(len(plan))
    seed = added(*(cost.work for cost in made), times(len(made), deep.work))
    return Cost(
        added(scored(a.layers).work, times(seeds, seed)),
        memory=max(deep.memory, *(cost.memory for cost in made)),
        scratch=2 * made[0].output,
    )


def trainable(a: Architecture, plan: LayerPlan) -> int:
    """Trainable parameters under `lesa.training.pretrain.freeze`; an empty plan is the base."""
    if all(slot.trainable for slot in plan):
        return a.parameters(len(plan) or a.layers)
    return a.layer_parameters * sum(slot.trainable for slot in plan)


def first_trained(plan: LayerPlan) -> int:
    """Index of the lowest layer that trains; 0 where the embedding does, too."""
    if all(slot.trainable for slot in plan):
        return 0
    return min(slot.layer_idx for slot in plan if slot.trainable)


def sequences(train: Train) -> int:
    """Of one optimiser step."""
    return train.per_device_batch_size * train.gradient_accumulation_steps


def prefix(a: Architecture, plan: LayerPlan, train: Train, blocks: int, length: int) -> Cost:
    """Hidden states that enter the first trained layer, once for every block (`training.prefix`).

    At most: a corpus with fewer blocks than the steps take has its blocks once.
    """
    tokens = (train.max_steps * sequences(train) + blocks) * length
    size = 4 * a.hidden * tokens
    unit, _ = precision(train.bf16)
    flops = forward_flops(a, first_trained(plan), tokens, length, head=False)
    return Cost(
        {unit: flops, "disk": float(size)},
        memory=4 * a.parameters(len(plan)),
        outside=size,
        accelerated=True,
        host=4 * a.parameters(len(plan)),
    )


def sharded_bytes(
    a: Architecture, plan: LayerPlan, train: Train, length: int, launch: Launch
) -> int:
    """Of one of several processes under FSDP (docs/scaling.md, memory a GPU).

    Its share of what trains, 16 bytes each, and of what is frozen, in autocast's dtype but for an
    embedding in float32; gathered for use two layers, the embedding and the output layer, and a
    layer's gradient, in that dtype and float32. Activations and logits are those of its own
    tokens; where activations are recomputed, each layer keeps its input, float32.
    """
    layers = len(plan) or a.layers
    everything = all(slot.trainable for slot in plan)
    above = layers - first_trained(plan)
    moved = layers if everything else sum(slot.trainable for slot in plan)
    _, element = precision(train.bf16)
    embedding = a.vocabulary * a.hidden
    outside = element * (a.other_parameters - embedding) + 4 * embedding
    frozen = 0 if everything else element * a.layer_parameters * (layers - moved) + outside
    gathered = element * (2 * a.layer_parameters + 2 * embedding)
    gradient = (element + 4) * a.layer_parameters
    one, other = (activation_bytes(a, train.bf16, trains) for trains in (True, False))
    activations = moved * one + (above - moved) * other
    if launch.recomputes:
        activations = above * 4 * a.hidden + one
    logits = (12 + 2 * train.bf16) * a.vocabulary
    return (
        (16 * trainable(a, plan) + frozen) // launch.processes
        + gathered
        + gradient
        + train.per_device_batch_size * length * (activations + logits)
    )


def pretrain(
    a: Architecture,
    plan: LayerPlan,
    train: Train,
    blocks: int,
    length: int,
    launch: Launch = ALONE,
) -> Cost:
    """Continual pre-training; an empty `plan` is the base, which trains everything.

    A step passes its tokens forward through all layers (2·T·P and attention), gradients of the
    inputs from the head down to the first layer that trains (2·T·P of these, twice attention) and
    gradients of the weights that train (2·T·P of these). Held-out blocks pass forward at step 0,
    every `eval_every` steps and at the end. With `prefix_cache` the layers below the first that
    trains do not run; `prefix` has their cost.

    Held: weights 4·P, and of those that train AdamW's two moments, 8·P. Beside these what the
    backward pass starts from: of the layers from the first that trains upwards the activations
    and, under autocast, the weights in bfloat16; the logits, their log-softmax and gradient,
    12·V a token, and under autocast 2·V more, of all tokens if the output layer trains and else of
    a chunk (`training.head_loss`). Gradients, 4·P of what trains, come as activations go, unless
    earlier micro-batches have left theirs. On disk while it runs: a checkpoint of what trains and
    its moments, and the one before until the next is whole.

    Of several processes each holds all of this, or under FSDP its share (`sharded_bytes`), for
    which the first alone reads the weights.
    """
    layers = len(plan) or a.layers
    everything = all(slot.trainable for slot in plan)
    above = layers - first_trained(plan)
    run = above if train.prefix_cache else layers
    moved = layers if everything else sum(slot.trainable for slot in plan)
    p, moving = a.parameters(layers), trainable(a, plan)
    unit, _ = precision(train.bf16)
    micro = train.per_device_batch_size * length
    tokens = sequences(train) * length
    matrices, head = layer_matrices(a), a.vocabulary * a.hidden
    weights = moved * matrices + everything * head

    forward = forward_flops(a, run, tokens, length, head=True)
    attention = 4.0 * tokens * length * a.kinds["q_proj"][0]
    inputs = 2.0 * tokens * (above * matrices + head) + 2 * above * attention
    activations = moved * activation_bytes(a, train.bf16, trains=True)
    activations += (above - moved) * activation_bytes(a, train.bf16, trains=False)
    logits = (12 + 2 * train.bf16) * a.vocabulary
    cast = 2 * (above * matrices + head) if train.bf16 else 0
    step: Work = {
        unit: forward + inputs + 2.0 * tokens * weights,
        # AdamW reads and writes weights and moments and reads gradients, clipping goes over them
        # three times and each micro-batch twice; activations and logits are written and read;
        # autocast reads float32 and writes bfloat16.
        "memory": 4.0 * moving * (10 + 2 * train.gradient_accumulation_steps)
        + 3.0 * tokens * (activations + logits)
        + 3.0 * cast * train.gradient_accumulation_steps,
    }
    evaluations = 1 + -(-train.max_steps // train.eval_every)
    scored = held_out(a, run, blocks, length, train.per_device_batch_size, train.bf16)
    saves = -(-train.max_steps // train.save_every)
    checkpoint = 12 * moving
    gradients = 4 * moving
    at_once = micro if everything else min(micro, ROWS)
    backward = cast + micro * activations + at_once * logits
    if train.gradient_accumulation_steps > 1:
        backward += gradients
    output = a.itemsize * p
    memory = 4 * p + 8 * moving + max(backward, gradients, scored.memory - 4 * a.parameters(run))
    if launch.sharded:
        memory = sharded_bytes(a, plan, train, length, launch)
    return Cost(
        added(
            times(train.max_steps, step),
            times(evaluations, {**scored.work, "disk": 0.0}),
            {"disk": 4.0 * output + saves * checkpoint},
        ),
        memory=memory,
        output=output,
        scratch=checkpoint * min(saves, 2),
        processes=launch.local,
        accelerated=True,
        host=4 * p * (1 if launch.sharded else launch.local),
        launch=launch,
    )


def evaluate(a: Architecture, layers: int, options: Evaluate, launch: Launch = ALONE) -> Cost:
    """lm-eval on the tasks made from held-out text; official tasks are not counted.

    Held: the weights in `evaluate.dtype`, and of the longest batch activations, logits and their
    log-softmax.
    """
    unit, element = precision(options.dtype == "bfloat16")
    documents, examples = options.offline_documents, options.offline_examples
    tokens = documents * DOCUMENT_TOKENS + examples * (PASSAGE_TOKENS + CHOICE_TOKENS)
    batch = options.batch_size * DOCUMENT_TOKENS
    hidden = activation_bytes(a, options.dtype == "bfloat16", trains=True)
    held = 2 * element * a.vocabulary + hidden
    p = a.parameters(layers)
    return Cost(
        {
            unit: forward_flops(a, layers, tokens, DOCUMENT_TOKENS, head=True),
            "memory": 4.0 * element * tokens * a.vocabulary,
            "disk": float(a.itemsize * p),
        },
        memory=element * p + batch * held,
        processes=launch.local,
        accelerated=True,
        host=launch.local * element * p,
        launch=launch,
    )
