"""What passes of a whole model cost: pretrain and evaluate. Terms as in `method_costs.py`.

`P` are parameters that a token is multiplied with, `V` the vocabulary, `T` tokens, `s` tokens of a
sequence, `d` the hidden size.
"""

from __future__ import annotations

from lesa.params import Evaluate, Train
from lesa.planning.architecture import Architecture
from lesa.planning.cost import Cost, Work, added, times
from lesa.planning.launch import ALONE, Launch
from lesa.training.head_loss import ROWS
from lesa.upscaling.plan import LayerPlan, everything_trains, trainable_parameters, trained_layers

# Upper bounds in tokens, at four characters a token, of what eval/offline.py builds: a document;
# a passage and its last word; a context with each of four sentences.
DOCUMENT_TOKENS = 500
PASSAGE_TOKENS = 60
CHOICE_TOKENS = 4 * (60 + 28)


def forward_flops(a: Architecture, layers: int, tokens: int, length: int, head: bool) -> float:
    """2·T·P of matrix products, and attention's 4·T·s·(heads' width) a layer, causal or not."""
    products = layers * a.active_parameters + head * a.embedding_parameters
    attention = 2.0 * layers * length * a.query_width
    return 2.0 * tokens * (products + attention)


def activation_bytes(a: Architecture, bf16: bool, trains: bool) -> int:
    """Kept for the backward pass by one layer for one token, as Llama keeps it.

    Of each norm its input, in float32; rotated queries, keys and values, attention's output;
    three of the feed-forward width, without a gate one. A layer that trains also keeps what its
    weights multiply: of each norm two more, or under autocast one and each projection's input in
    bfloat16; attention's joined output and one more of the feed-forward width. Other families keep
    0.7 to 1.8 times that: attention that is not fused (Gemma 2), activations in several steps
    (GPT-2) and a mixture's sorting of its tokens are not counted.
    """
    q, k, d = a.query_width, a.key_value_width, a.hidden_size
    i, element = a.feed_forward_width, 2 if bf16 else 4
    frozen = 4 * a.norm_width + element * (2 * q + 2 * k + (3 if a.gated else 1) * i)
    if not trains:
        return frozen
    return frozen + (4 * a.norm_width + 2 * 5 * d if bf16 else 8 * a.norm_width) + element * (q + i)


def precision(bf16: bool) -> tuple[str, int]:
    """The unit of work and the bytes of an element."""
    return ("bfloat16", 2) if bf16 else ("float32", 4)


def cast_bytes(a: Architecture, layers: int, bf16: bool) -> int:
    """Of the weights' copies in bfloat16 that autocast keeps to the end of a pass."""
    return 2 * (layers * a.layer_matrices + a.embedding_parameters) if bf16 else 0


def held_out(
    a: Architecture, layers: int, blocks: int, length: int, batch: int, bf16: bool
) -> Cost:
    """Load in float32 and score (`lesa.training.heldout.block_losses`).

    Held: 4 bytes a parameter; the batch's logits, one row of them and its log-softmax in float32;
    under autocast the weights' copies.
    """
    unit, element = precision(bf16)
    cast = cast_bytes(a, layers, bf16)
    passes = -(-blocks // batch)
    work: Work = {
        unit: forward_flops(a, layers, blocks * length, length, head=True),
        "memory": 3.0 * passes * cast + 12.0 * blocks * length * a.vocab_size,
        "disk": float(a.itemsize * a.parameters(layers)),
    }
    logits = a.vocab_size * length * (batch * element + 8)
    hidden = batch * length * activation_bytes(a, bf16, trains=True)
    return Cost(work, 4 * a.parameters(layers) + cast + logits + hidden)


def trainable(a: Architecture, plan: LayerPlan) -> int:
    """Trainable parameters under `lesa.training.freezing.freeze`."""
    return trainable_parameters(plan, a.layer_parameters, a.parameters(len(plan)))


def first_trained(plan: LayerPlan) -> int:
    """Index of the lowest layer that trains."""
    return min(slot.layer_idx for slot in plan if slot.trainable)


def layers_above(plan: LayerPlan) -> int:
    """Layers that gradients pass: from the lowest that trains upwards."""
    return len(plan) - first_trained(plan)


def plan_activations(a: Architecture, plan: LayerPlan, bf16: bool) -> int:
    """Kept for the backward pass by all layers for one token."""
    trained = trained_layers(plan)
    frozen = (layers_above(plan) - trained) * activation_bytes(a, bf16, trains=False)
    return trained * activation_bytes(a, bf16, trains=True) + frozen


def logits_bytes(a: Architecture, bf16: bool) -> int:
    """Of one token: logits, their log-softmax and gradient; under autocast the logits twice."""
    return (12 + 2 * bf16) * a.vocab_size


def sequences(train: Train) -> int:
    """Of one optimiser step."""
    return train.per_device_batch_size * train.gradient_accumulation_steps


def prefix(a: Architecture, plan: LayerPlan, train: Train, blocks: int, length: int) -> Cost:
    """Hidden states that enter the first trained layer, once for every block (`training.prefix`).

    At most: a corpus with fewer blocks than the steps take has its blocks once.
    """
    tokens = (train.max_steps * sequences(train) + blocks) * length
    size = 4 * a.hidden_size * tokens
    unit, _ = precision(train.bf16)
    flops = forward_flops(a, first_trained(plan), tokens, length, head=False)
    return Cost(
        {unit: flops, "disk": float(size)},
        memory=4 * a.parameters(len(plan)),
        outside=size,
        accelerated=True,
        host=4 * a.parameters(len(plan)),
    )


def step_work(a: Architecture, plan: LayerPlan, train: Train, length: int) -> Work:
    """One optimiser step.

    Its tokens pass forward through all layers (2·T·P and attention); gradients of the inputs pass
    from the head down to the first layer that trains (2·T·P of these, twice attention), those of
    the weights are of what trains (2·T·P of these). With `prefix_cache` the layers below the first
    that trains do not run; `prefix` has their cost.
    """
    above, everything = layers_above(plan), everything_trains(plan)
    tokens, micro_batches = sequences(train) * length, train.gradient_accumulation_steps
    head = a.embedding_parameters
    run = above if train.prefix_cache else len(plan)
    weights = trained_layers(plan) * a.active_parameters + everything * head
    attention = 8.0 * tokens * length * above * a.query_width
    inputs = 2.0 * tokens * (above * a.active_parameters + head) + attention
    moved = plan_activations(a, plan, train.bf16) + logits_bytes(a, train.bf16)
    unit, _ = precision(train.bf16)
    return {
        unit: forward_flops(a, run, tokens, length, head=True) + inputs + 2.0 * tokens * weights,
        # AdamW reads and writes weights and moments and reads gradients, clipping goes over them
        # three times and each micro-batch twice; activations and logits are written and read;
        # autocast reads float32 and writes bfloat16.
        "memory": 4.0 * trainable(a, plan) * (10 + 2 * micro_batches)
        + 3.0 * tokens * moved
        + 3.0 * cast_bytes(a, above, train.bf16) * micro_batches,
    }


def backward_bytes(a: Architecture, plan: LayerPlan, train: Train, length: int) -> int:
    """Held at a step's peak beside weights and moments.

    What the backward pass starts from: of the layers from the first that trains upwards the
    activations and, under autocast, the weights in bfloat16; logits of all tokens if the output
    layer trains and else of a chunk (`training.head_loss`). Gradients, 4 bytes for each parameter
    that trains, come as activations go, unless earlier micro-batches have left theirs.
    """
    tokens, gradients = train.per_device_batch_size * length, 4 * trainable(a, plan)
    at_once = tokens if everything_trains(plan) else min(tokens, ROWS)
    start = cast_bytes(a, layers_above(plan), train.bf16)
    start += tokens * plan_activations(a, plan, train.bf16) + at_once * logits_bytes(a, train.bf16)
    if train.gradient_accumulation_steps > 1:
        start += gradients
    return max(start, gradients)


def sharded_bytes(
    a: Architecture, plan: LayerPlan, train: Train, length: int, launch: Launch
) -> int:
    """Of one of several processes under FSDP (docs/scaling.md, memory a GPU).

    Its share of what trains, 16 bytes each, and of what is frozen, in autocast's dtype but for an
    embedding in float32; gathered for use two layers, the embedding and the output layer, and a
    layer's gradient, in that dtype and float32. Activations and logits are those of its own
    tokens; where activations are recomputed, each layer keeps its input, float32.
    """
    _, element = precision(train.bf16)
    layer, embedding = a.layer_parameters, a.embedding_parameters
    frozen = 0
    if not everything_trains(plan):
        outside = element * (a.other_parameters - embedding) + 4 * embedding
        frozen = element * layer * (len(plan) - trained_layers(plan)) + outside
    gathered = element * (2 * layer + 2 * embedding)
    gradient = (element + 4) * layer
    activations = plan_activations(a, plan, train.bf16)
    if launch.recomputes:
        inputs = layers_above(plan) * 4 * a.hidden_size
        activations = inputs + activation_bytes(a, train.bf16, trains=True)
    tokens = train.per_device_batch_size * length
    return (
        (16 * trainable(a, plan) + frozen) // launch.processes
        + gathered
        + gradient
        + tokens * (activations + logits_bytes(a, train.bf16))
    )


def pretrain(
    a: Architecture, plan: LayerPlan, train: Train, blocks: int, length: int, launch: Launch = ALONE
) -> Cost:
    """Continual pre-training: `max_steps` of `step_work`, and held-out blocks that pass forward at
    step 0, every `eval_every` steps and at the end.

    Held: weights, 4 bytes a parameter, of those that train AdamW's two moments, 8 bytes, and
    the larger of what a step (`backward_bytes`) and scoring hold. On disk while it runs: a
    checkpoint of what trains and its moments, and the one before until the next is whole.

    Of several processes each holds all of this, or under FSDP its share (`sharded_bytes`), for
    which the first alone reads the weights.
    """
    run = layers_above(plan) if train.prefix_cache else len(plan)
    scored = held_out(a, run, blocks, length, train.per_device_batch_size, train.bf16)
    weights, checkpoint = 4 * a.parameters(len(plan)), 12 * trainable(a, plan)
    output = a.itemsize * a.parameters(len(plan))
    if launch.sharded:
        memory = sharded_bytes(a, plan, train, length, launch)
    else:
        scoring = scored.memory - 4 * a.parameters(run)
        peak = max(backward_bytes(a, plan, train, length), scoring)
        memory = weights + 8 * trainable(a, plan) + peak
    evaluations = 1 + -(-train.max_steps // train.eval_every)
    saves = -(-train.max_steps // train.save_every)
    return Cost(
        added(
            times(train.max_steps, step_work(a, plan, train, length)),
            times(evaluations, {**scored.work, "disk": 0.0}),
            {"disk": 4.0 * output + saves * checkpoint},
        ),
        memory=memory,
        output=output,
        scratch=checkpoint * min(saves, 2),
        processes=launch.local,
        accelerated=True,
        host=weights * (1 if launch.sharded else launch.local),
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
    token = 2 * element * a.vocab_size + hidden
    p = a.parameters(layers)
    return Cost(
        {
            unit: forward_flops(a, layers, tokens, DOCUMENT_TOKENS, head=True),
            "memory": 4.0 * element * tokens * a.vocab_size,
            "disk": float(a.itemsize * p),
        },
        memory=element * p + batch * token,
        processes=launch.local,
        accelerated=True,
        host=launch.local * element * p,
        launch=launch,
    )
