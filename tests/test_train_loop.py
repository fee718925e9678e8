"""The loop: what a step does, going on after a stop, several processes, losses that are no numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from training import CLASSES, RandomFeed, close, fit, losses, narrow, same_weights, still, weights

from wsss_fast.methods import infer_cam
from wsss_fast.methods.checkpoint import load
from wsss_fast.train import checkpoint, optimiser
from wsss_fast.train.pictures import Example


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    outcome = fit(folder)
    assert (outcome.step, outcome.steps, outcome.started, outcome.stopped) == (6, 6, 0, False)
    return folder


def test_weights_are_those_of_a_loop_by_hand(uninterrupted):
    training = narrow().train()
    moves = optimiser.make_optimiser(training)
    expected = []
    for step in range(6):
        batch = next(RandomFeed().batches(*divmod(step, 3)))
        torch.manual_seed(int(np.random.SeedSequence([0, step, 0]).generate_state(1, np.uint64)[0]))
        optimiser.set_rates(moves, (1 - step / 6) ** 0.9)
        loss = training(batch)["total"]
        moves.zero_grad()
        loss.backward()
        moves.step()
        expected.append(loss.item())
    assert [row["total"] for row in losses(uninterrupted)] == expected
    saved = weights(uninterrupted)
    assert all(torch.equal(saved[name], value) for name, value in training.model.state_dict().items())
    assert [row["lr"] for row in losses(uninterrupted)] == [0.01 * (1 - step / 6) ** 0.9 for step in range(6)]


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_going_on_gives_the_same_bits(uninterrupted, tmp_path, stop_after):
    asked = []
    outcome = fit(tmp_path, stop=lambda: asked.append(1) or len(asked) == stop_after)
    assert (outcome.step, outcome.stopped) == (stop_after, True)
    assert not (tmp_path / "model.safetensors").exists()
    # other initial weights, another state of the generator: all that counts is in the checkpoint
    torch.manual_seed(77)
    outcome = fit(tmp_path, narrow(seed=5))
    assert (outcome.step, outcome.started, outcome.stopped) == (6, stop_after, False)
    assert losses(tmp_path) == losses(uninterrupted)
    assert same_weights(tmp_path, uninterrupted) and same_weights(tmp_path, uninterrupted, checkpoint.NAME)


def test_adam_goes_on_with_the_same_bits(tmp_path):
    """Its memory holds two moments of each gradient and a count of steps."""
    given = {"optimiser": "adam", "momentum": 0, "lr": 1e-3}
    fit(tmp_path / "whole", narrow(**given))
    assert fit(tmp_path / "cut", narrow(**given), max_steps=4).step == 4
    assert fit(tmp_path / "cut", narrow(seed=5, **given)).started == 4
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert same_weights(tmp_path / "cut", tmp_path / "whole", checkpoint.NAME)


def test_max_steps_ends_and_a_later_run_goes_on(uninterrupted, tmp_path):
    assert fit(tmp_path, max_steps=4).stopped is False
    assert [row["step"] for row in losses(tmp_path)] == [1, 2, 3, 4]
    assert load(tmp_path / "model.safetensors").num_classes == 3
    assert fit(tmp_path, narrow(seed=9)).started == 4
    assert losses(tmp_path) == losses(uninterrupted) and same_weights(tmp_path, uninterrupted)
    assert fit(tmp_path, narrow(seed=9)).started == 6  # nothing is left to do


def test_a_crash_between_checkpoints_repeats_the_steps_after_it(uninterrupted, tmp_path):
    feed = RandomFeed()

    def crash(epoch, place):
        if (epoch, place) == (1, 2):
            raise RuntimeError("power cut")

    feed.before = crash
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, feed=feed, checkpoint_every="2 steps")
    with (tmp_path / "losses.jsonl").open("a") as file:
        file.write('{"step": 6, "tor')
    assert [row["step"] for row in losses_of_whole_lines(tmp_path)] == [1, 2, 3, 4, 5]
    outcome = fit(tmp_path, narrow(seed=3), checkpoint_every="2 steps")
    assert outcome.started == 4
    assert losses(tmp_path) == losses(uninterrupted) and same_weights(tmp_path, uninterrupted)


def losses_of_whole_lines(folder):
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines() if line.endswith("}")]


def test_dropout_is_drawn_anew_in_each_step_and_by_seed(tmp_path):
    one = fit_losses(tmp_path / "one", seed=0)
    assert one == fit_losses(tmp_path / "again", seed=0)
    assert one != fit_losses(tmp_path / "other", seed=1)


def fit_losses(folder, **run):
    fit(folder, narrow(lr=0.0), RandomFeed(), **run)
    return losses(folder)


def test_accumulated_steps_are_one_large_batch(tmp_path):
    """Two steps of two images, and one of four, give the same weights; at the end of an epoch the rest moves them alone."""
    large, small = still(narrow(batch=4, epochs=1)), still(narrow(batch=2, accumulate=2, epochs=1))

    class Halves(RandomFeed):
        def batches(self, epoch, first):
            for batch in RandomFeed(3).batches(epoch, 0):
                for half in (slice(0, 2), slice(2, 4)):
                    yield {name: value[half] for name, value in batch.items()}

    fit(tmp_path / "large", large, RandomFeed(3))
    fit(tmp_path / "small", small, Halves(6))
    assert close(weights(tmp_path / "large"), weights(tmp_path / "small"), 1e-5)
    fit(tmp_path / "rest", still(narrow(batch=4, accumulate=5, epochs=1)), RandomFeed(3))
    assert not close(weights(tmp_path / "rest"), narrow().model.state_dict(), 1e-6)


def test_a_stop_waits_for_gradients_that_belong_together(tmp_path):
    whole = fit(tmp_path / "whole", narrow(accumulate=2), RandomFeed(5))
    assert whole.step == 10
    assert fit(tmp_path / "cut", narrow(accumulate=2), RandomFeed(5), stop=lambda: True).step == 2
    fit(tmp_path / "cut", narrow(accumulate=2), RandomFeed(5), max_steps=3)
    assert losses(tmp_path / "cut")[-1]["step"] == 4
    fit(tmp_path / "cut", narrow(accumulate=2), RandomFeed(5))
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_checkpoint(tmp_path):
    training = narrow()
    training.register_forward_hook(lambda module, given, terms: broken(terms, fit_calls))
    fit_calls = []
    with pytest.raises(FloatingPointError, match=r"total = nan.*in the batch of 1-1-0, 1-1-1, 1-1-2, 1-1-3.*lower lr"):
        fit(tmp_path, training, checkpoint_every="2 steps")
    saved = checkpoint.read(tmp_path / checkpoint.NAME)
    assert saved.told["step"] == 4 and all(value.isfinite().all() for value in saved.tensors.values())
    assert [row["step"] for row in losses(tmp_path)] == [1, 2, 3, 4]


def broken(terms, calls):
    calls.append(1)
    return {name: value * float("nan") for name, value in terms.items()} if len(calls) == 5 else terms


def test_weights_that_are_no_numbers_do_not_replace_a_checkpoint(tmp_path):
    training = narrow()
    next(training.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match="not finite"):
        fit(tmp_path, training, checkpoint_every="1 step")
    assert not (tmp_path / checkpoint.NAME).exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_and_goes_on(tmp_path, precision):
    fit(tmp_path / "whole", narrow(epochs=1), precision=precision)
    fit(tmp_path / "cut", narrow(epochs=1), precision=precision, max_steps=2)
    told = checkpoint.read(tmp_path / "cut" / checkpoint.NAME).told
    assert bool(told["scaler"]) == (precision == "fp16")
    fit(tmp_path / "cut", narrow(epochs=1, seed=4), precision=precision)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut") and same_weights(tmp_path / "whole", tmp_path / "cut")
    fp32 = fit_losses(tmp_path / "fp32")
    assert losses(tmp_path / "whole")[0]["total"] == pytest.approx(fp32[0]["total"], rel=0.02)
    assert losses(tmp_path / "whole")[0]["total"] != fp32[0]["total"]


def test_seam_trains_and_goes_on(tmp_path):
    changes = {"epochs": 1, "freeze": True}
    fit(tmp_path / "whole", narrow("seam", **changes), RandomFeed(2))
    fit(tmp_path / "cut", narrow("seam", **changes), RandomFeed(2), max_steps=1)
    fit(tmp_path / "cut", narrow("seam", seed=2, **changes), RandomFeed(2))
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut") and same_weights(tmp_path / "whole", tmp_path / "cut")
    assert set(losses(tmp_path / "cut")[0]) == {"step", "epoch", "lr", "classification", "er", "ecr", "min_pooling", "total"}


def test_kept_models_are_the_last_ones_and_load(tmp_path):
    fit(tmp_path, checkpoint_every="1 step", keep=2)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [f"step-0000000{n}.safetensors" for n in (5, 6)]
    model = load(tmp_path / "models" / "step-00000006.safetensors")
    assert model.name == "cam" and not model.training


def test_a_kept_model_that_could_not_be_written_is_there_after_going_on(tmp_path, monkeypatch):
    """A kill between a checkpoint and its model must not leave the model out for good."""
    write = checkpoint.save_model

    def fails(folder, name, *given):
        if name.endswith("step-00000003.safetensors"):
            raise KeyboardInterrupt
        write(folder, name, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_model", fails)
        fit(tmp_path, checkpoint_every="1 step", keep=9)
    fit(tmp_path, checkpoint_every="1 step", keep=9)
    assert [int(path.stem[-1]) for path in sorted((tmp_path / "models").iterdir())] == [1, 2, 3, 4, 5, 6]


def test_pictures_are_drawn_change_nothing_and_keep_their_place(uninterrupted, tmp_path):
    pixels = np.zeros((48, 64, 3), np.uint8)
    examples = [Example(pixels, (0, 2)), Example(pixels, ())]
    fit(tmp_path, examples=examples, pictures="1 epoch", checkpoint_every="2 steps")
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["step-00000003.png", "step-00000006.png"]
    with Image.open(tmp_path / "pictures" / names[0]) as image:
        assert image.size == (4 * 224, 2 * 240) and image.mode == "RGB"
    assert losses(tmp_path) == losses(uninterrupted) and same_weights(tmp_path, uninterrupted)


def test_progress_counts_and_estimates(tmp_path):
    seen = []
    fit(tmp_path, report=seen.append)
    assert [(item.step, item.steps, item.epoch) for item in seen] == [(n, 6, (n - 1) // 3 + 1) for n in range(1, 7)]
    assert all(item.images_per_second > 0 for item in seen)
    assert seen[0].seconds_left > 0 and seen[-1].seconds_left == 0
    assert [item.loss for item in seen] == [row["total"] for row in losses(tmp_path)]


def test_the_model_file_says_what_it_is(uninterrupted):
    from wsss_fast.nets import weights as files

    told = files.describe(uninterrupted / "model.safetensors")
    assert told["classes"] == CLASSES and told["method"] == "cam" and told["trained"]["step"] == 6
    model = load(uninterrupted / "model.safetensors")
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert infer_cam(model, image, scales=(1.0,)).shape == (1, 3, 32, 32)


def test_an_epoch_that_ends_early_is_told(tmp_path):
    feed = RandomFeed(3)
    feed.batches = lambda epoch, first: RandomFeed(2).batches(epoch, first)
    with pytest.raises(RuntimeError, match="epoch 1 ended after 2 steps, not 3"):
        fit(tmp_path, feed=feed)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_compiled_training_is_the_same_within_rounding(tmp_path, uninterrupted):
    fit(tmp_path, still(narrow()), compile=True)
    fit(tmp_path / "eager", still(narrow()))
    got, expected = losses(tmp_path), losses(tmp_path / "eager")
    assert [row["total"] for row in got] == pytest.approx([row["total"] for row in expected], rel=1e-3)
