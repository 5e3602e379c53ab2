"""Train the U-Net on a dataset folder; the best network of the run becomes files/model.keras.

    python data.py --synthetic 20 --out files/dataset        # something to learn from
    python train.py                                          # files/model.keras, its card, curves
    python train.py --size 256 --width 24 --epochs 60 --schedule cosine --lr 1e-3
    python train.py --start-from files/model.keras --lr 1e-5 # goes on from finished weights
    python train.py --data files/mine --start-from files/model.keras    # fine-tunes, on what
        data.py --results or --like made: the new network is kept if it is better
    python train.py --data files/tumour --loss dice_focal --lr 1e-3 --patience 5
    python train.py --folds 5 --output files/folds           # cross-validation: five networks
    KERAS_BACKEND=jax python train.py                        # any backend of Keras will do

The dataset's dataset.json says whether it holds slices or volumes, and which channels and labels.
Killed at any moment, the same command goes on from the last finished epoch. Watch a run with
`tensorboard --logdir files/tensorboard`.
"""

from __future__ import annotations

import importlib.util
import math
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from common.card import Card, read_card
from common.errors import InputError, explained, quietly, run
from common.files import read_json
from common.report import plot_curves
from dataset.read import Pair, read_description
from metrics import Confusion, make_loss
from model import (
    build_unet,
    check_onnx_export,
    copy_network,
    export_model,
    export_onnx,
    load_model,
    save_model,
)
from training.batches import Slices, TrainingSlices, check_masks, read_pairs, split_by_case
from training.callbacks import (
    AveragedWeights,
    BackupAndRestore,
    BestModel,
    Log,
    StandstillWarning,
    TensorBoard,
    Validation,
    cut_log,
    identify_run,
    round_figures,
    validate,
)
from training.describe import choose_window, compose_card
from training.devices import choose_devices, feed, share_batches
from training.folds import describe_fold, finish_fold, plan_folds, read_cases, report_folds
from training.memory import check_memory, explained_memory
from training.options import PLANNED, list_gpus, parse, settle
from training.progress import Progress
from training.trackers import make_trackers
from training.tuning import Tuning, adopt_window, is_tuning, plan_tuning

with quietly():
    import keras

WARM_UP = 500  # steps at most, in which a cosine's rate rises; a tenth of a shorter run
LOOKED_AT = {2: 200, 3: 20}  # masks that are looked at first: slices, volumes; read in seconds
CALIBRATING = {2: 300, 3: 10}  # slices, volumes by which an export in 8 bits is set up and judged

# ---------------------------------------------------------------- network


def input_shape(options: Namespace, card: Card) -> tuple[int, ...]:
    """(H, W, C) of slices fitted to --size, (X, Y, Z, C) of --patch."""
    spatial = options.patch if card.is_3d else (options.size, options.size)
    return (*spatial, len(card.channels))


def build_network(options: Namespace, steps: int, card: Card) -> keras.Model:
    """The network to train on a dataset: a new one, or that of --start-from.

    One label is learned by a sigmoid, several and the background by a softmax. `steps` is the
    number of batches in an epoch.
    """
    shape, label_count = input_shape(options, card), len(card.labels)
    classes = label_count + 1 if label_count > 1 else 1
    if start := options.start_from:
        model, _ = load_model(start)
        given = model.input_shape[1:]
        if given not in (shape, (*[None] * len(shape[:-1]), shape[-1])):
            advice = f"give --size {given[0]}" if len(given) == len(shape) == 3 else "take another"
            raise InputError(f"{start} takes {given}, the dataset gives {shape}: {advice}")
        if model.output_shape[-1] != classes:
            said = f"{start} was not made for {label_count} labels: take another"
            raise InputError(f"{said}, or make the dataset with data.py --like {start}")
    else:
        model = build_unet(shape, classes, options.width, options.depth, options.dropout)
    return prepare_for_training(model, options.precision, steps, options.devices)


def prepare_for_training(
    model: keras.Model, precision: str, steps: int, devices: int = 1
) -> keras.Model:
    """A copy of the network that computes in `precision`; its output stays float32.

    Batch normalisation averages over about a third of an epoch of `steps` batches: with far fewer,
    validation would go up and down with the samples of the last ones; with more, it would show
    nonsense after the first epochs, for what the averages begin with takes long to go. It is of the
    whole batch, also where several devices share it.
    """
    momentum = average_over(steps // 3)
    policy = precision if precision == "float32" else f"mixed_{precision}"

    apart = devices > 1 and keras.backend.backend() == "tensorflow"  # JAX shows each all of a batch

    def change(layer):
        dtype = {"dtype": "float32" if layer.name == model.layers[-1].name else policy}
        normalising = {"momentum": momentum, "synchronized": apart}
        return dtype | (normalising if hasattr(layer, "momentum") else {})

    return copy_network(model, change, fused=not apart)


def compile_model(model: keras.Model, options: Namespace, steps: int, card: Card) -> None:
    """Compile, and build what Keras would otherwise build by drawing samples of its own."""
    rate = options.lr
    if options.schedule == "cosine":
        total = options.epochs * steps
        warm = min(WARM_UP, total // 10)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 100, max(1, total - warm), alpha=0.01, warmup_target=rate, warmup_steps=warm
        )
    model.compile(
        optimizer=keras.optimizers.Adam(rate, use_ema=True, ema_momentum=average_over(steps)),
        loss=make_loss(options.loss, options.label_weights, options.background),
        metrics=[Confusion(card.areas)],
        jit_compile=choose_compiling(options.devices),
    )
    model.optimizer.build(model.trainable_variables)
    shape = input_shape(options, card)
    count = options.devices  # a sample for each
    image, mask = (np.zeros((count, *shape[:-1], n), np.float32) for n in (shape[-1], 1))
    model.test_on_batch(image, mask)


def average_over(steps: int) -> float:
    """The momentum of a running mean over about `steps` steps, at most over Keras' 100."""
    return 1 - 1 / min(max(steps, 2), 100)


def choose_compiling(devices: int) -> bool | str:
    """Keras' `jit_compile`: TensorFlow's XLA cannot compile for several devices.

    Keras' own choice leaves XLA out for TensorFlow on a CPU, where it halves the speed.
    """
    return "auto" if devices == 1 or keras.backend.backend() == "jax" else False


# ---------------------------------------------------------------- the run


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, look at the dataset, and train."""
    given = parse(argv, __doc__)
    folds = given.folds
    pairs = (read_cases(given), []) if folds else read_pairs(given.data, given.views)
    card = adopt_window(read_description(given.data) or Card(), given.start_from)
    options = settle(given, card, len(pairs[0]), plan_tuning(given, card))
    print(describe_choice(given, options))
    devices = prepare_device(options)
    for one in plan_folds(options, pairs[0]) if folds else [(options, *pairs)]:
        train_and_tell(*one, card, devices)
    if folds:
        report_folds(options)


def train_and_tell(
    options: Namespace,
    train_pairs: Sequence[Pair],
    val_pairs: Sequence[Pair],
    card: Card,
    devices: Sequence[str],
) -> None:
    """Look at the masks, train one network, and say how good it is."""
    if options.fold:
        print(f"fold {options.fold} of {options.folds}")
        keras.backend.clear_session()  # the fold before leaves its graphs, and names of layers
    things, count = "volumes" if card.is_3d else "pictures", LOOKED_AT[card.dimensions]
    for purpose, pairs in (("train", train_pairs), ("validate", val_pairs)):
        print(f"{len(pairs)} {things} to {purpose}")
        check_masks(pairs, options.seed, card.labels.values(), count)
    with explained(options.output), explained_memory(), share_batches(devices):
        tuning = None
        if is_tuning(options, card) and not options.fold:
            tuning = Tuning(options, card)
            train_pairs, val_pairs = tuning.mix(train_pairs), tuning.find_new(val_pairs)
        path = train(options, train_pairs, val_pairs, card, tuning)
    if path is None:
        return
    best, figure = read_json(path.with_suffix(".json")), tuning.figure if tuning else "dice"
    print(
        f"best validation Dice {best['validation'][figure]:.4f} after epoch {best['epochs']}: "
        f"{options.output}/model.keras; curves in {options.output}/curves.png"
    )


def describe_choice(given: Namespace, options: Namespace) -> str:
    """Which options follow the plan, and which were given, in words."""
    told = {True: [], False: []}
    for name in PLANNED:
        value = getattr(options, name)
        if value is not None:
            text = " ".join(map(str, value)) if isinstance(value, list) else f"{value}"
            told[getattr(given, name) is None].append(f"{name} {text}")
    as_given = f"; as given: {', '.join(told[False])}" if told[False] else ""
    return f"as planned: {', '.join(told[True])}{as_given}"


def prepare_device(options: Namespace) -> list[str]:
    """Choose what the training runs on, and say it; OpenCV leaves the cores to the reading threads.

    Raises InputError as `choose_devices` does.
    """
    cv2.setNumThreads(1)
    devices = choose_devices(options.devices, options.batch)
    named = list_gpus() or len(devices) > 1
    name = ", ".join(devices) if named else f"CPU ({os.cpu_count()} cores)"
    backend = keras.backend.backend()
    print(f"device: {name}; backend: {backend}; precision: {options.precision}")
    return devices


def train(
    options: Namespace,
    train_pairs: Sequence[Pair],
    val_pairs: Sequence[Pair],
    card: Card,
    tuning: Tuning | None = None,
) -> Path | None:
    """Fit, from the start or the last finished epoch; return the path of the best model, None where
    `tuning` does not keep it."""
    if options.onnx:
        check_onnx_export()  # refused now, not at the end
    keras.utils.set_random_seed(options.seed)
    output, threads = Path(options.output), options.threads
    shape = (options.patch if card.is_3d else options.size, options.batch, choose_window(card))
    slices = TrainingSlices(
        train_pairs, *shape, steps=options.steps, seed=options.seed, workers=threads
    )
    validation = Slices(val_pairs, *shape, workers=threads)
    patience = make_patience(options)
    identity = identify_run(options, [*train_pairs, *val_pairs])
    backup = BackupAndRestore(output / "training", identity, patience, options.fresh)
    model = build_network(options, len(slices), card)
    check_memory(model, options.batch, options.devices)
    if options.blend:  # refused now, not at the end
        average_weights(model, load_model(options.blend)[0], options.blend)
    compile_model(model, options, len(slices), card)
    backup.restore(model)
    cut_log(output / "data.csv", backup.epoch)
    said = compose_card(options, card, backup.state["run"])
    said |= describe_fold(options, train_pairs, val_pairs)
    best = tuning.watch(said) if tuning else BestModel(output / "model.keras", said)
    callbacks = [best, *patience, *make_observers(options, said), backup]
    if not backup.state.get("over"):
        fit_network(model, slices, validation, options.epochs, backup.epoch, callbacks)
        plot_curves(output / "data.csv", output / "curves.png")
    refuse_burst(output / "data.csv", best, backup)
    if options.blend and not read_card(best.path).blend:
        blend_best(options, best.path, validation, card)
    export_best(options, best.path, validation, card)
    path = tuning.choose_network(best.path) if tuning else best.path
    if path:
        finish_fold(options, path)
    backup.remove()
    return path


def export_best(options: Namespace, path: Path, validation: Slices, card: Card) -> None:
    """Export the best network for OpenVINO and, if asked for, for ONNX Runtime."""
    # else pred.py does it when it first needs it; JAX cannot export a network for any size
    if importlib.util.find_spec("openvino") and keras.backend.backend() != "jax":
        export_model(path, validation.spread(CALIBRATING[card.dimensions]))
    if options.onnx:
        export_onnx(path)


def fit_network(
    model: keras.Model, slices: Slices, validation: Slices, epochs: int, first: int, callbacks: list
) -> None:
    """keras.Model.fit from epoch `first`; raises the InputError of a reading thread as it was."""
    cases = split_by_case(validation)
    with Progress(slices, sum(map(len, cases)), epochs) as progress:
        try:
            model.fit(
                feed(slices, model),
                epochs=epochs,
                initial_epoch=first,
                callbacks=[
                    AveragedWeights(first > 0),
                    Validation(cases, progress),
                    progress,
                    *callbacks,
                ],
                shuffle=False,  # TrainingSlices does, in a way that a resumed run repeats
                verbose=0,  # Keras' bar shows all of up to sixty figures
            )
        except Exception:
            for part in (slices, *cases):
                if isinstance(part.error, InputError):
                    raise part.error from None
            raise


def refuse_burst(log: Path, best: BestModel, backup: BackupAndRestore) -> None:
    """Explain a run whose last figures are not numbers, and end it; raises InputError.

    A burst in an epoch's last step shows in the validation alone.
    """
    last = pd.read_csv(log).iloc[-1]
    if not (math.isfinite(last.loss) and math.isfinite(last.val_loss) and best.ours):
        backup.remove()
        kept = f"{best.path} holds the best model before" if best.ours else "no model was written"
        raise InputError(
            f"the loss is no longer a number, the training has burst ({kept}): "
            "start again with a lower --lr, or with --precision float32"
        )


def make_patience(options: Namespace) -> list[keras.callbacks.Callback]:
    """The callbacks that lose patience with a validation Dice that rises no more."""
    rising = {"monitor": "val_dice", "mode": "max"}
    stop = keras.callbacks.EarlyStopping(patience=options.patience, **rising)
    if options.schedule == "cosine":
        return [stop]
    soon = max(1, options.patience // 3)
    return [keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=soon, **rising), stop]


def make_observers(options: Namespace, said: dict) -> list[keras.callbacks.Callback]:
    """The callbacks that write down how it goes, or end what goes wrong."""
    output = Path(options.output)
    return [
        keras.callbacks.TerminateOnNaN(),
        StandstillWarning(options.data),
        Log(output / "data.csv", append=True),
        *make_tensorboard(output),
        *make_trackers(options, said),
    ]


def make_tensorboard(output: Path) -> list[keras.callbacks.Callback]:
    """The TensorBoard callback, where it is installed."""
    if all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
        return [TensorBoard(output / "tensorboard", write_graph=False)]
    print("no TensorBoard logs: `pip install tensorflow tensorboard` for them")
    return []


def blend_best(options: Namespace, path: Path, validation: Slices, card: Card) -> None:
    """Replace the best epoch's weights by their mean with the weights of --blend.

    A network and what it was tuned to lie in one basin of the loss, and the networks between them
    often do better than either on other data (Wortsman et al., CVPR 2022, arXiv:2109.01903).
    """
    (other, other_card), (tuned, _) = load_model(options.blend), load_model(path)
    tuned.set_weights(average_weights(tuned, other, options.blend))
    compile_model(tuned, options, 1, card)
    figures = round_figures(validate(tuned, split_by_case(validation)))
    found = {"validation": figures, "blend": other_card.sha256 or options.blend}
    save_model(tuned, path, read_json(path.with_suffix(".json")) | found)


def average_weights(model: keras.Model, other: keras.Model, name: str) -> list[np.ndarray]:
    """The mean of two networks' weights; InputError naming the `other` if it is of another kind."""
    pairs = list(zip(model.get_weights(), other.get_weights(), strict=False))
    if len(model.weights) != len(other.weights) or any(a.shape != b.shape for a, b in pairs):
        raise InputError(
            f"{name} is not a network of the size that is trained: give --blend another"
        )
    return [(a + b) / 2 for a, b in pairs]


if __name__ == "__main__":
    run(main, "the same command, without --fresh, goes on after the last finished epoch")
