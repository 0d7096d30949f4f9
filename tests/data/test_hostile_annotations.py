"""Mutated annotations: read, or refused in a sentence, and never counted differently by training and evaluation."""

import copy
import json
import random
import warnings

import data_sets
import pytest

from lucid_maskrcnn.data import CocoInstances, DataFaultError, validate
from lucid_maskrcnn.evaluation.coco_results import check_masks, complete

NAN, HUGE = float("nan"), 10**400
NUMBERS = [None, True, 0, -1, 3, 1.5, 1e308, NAN, float("inf"), 10**18, 10**19, HUGE, -HUGE, 2**31]
TEXTS = ["", "1", "a.png", "../a.png", "\ud800", "a\0", "[1]", "x" * 3000]
LISTS = [[], [[]], {}, [1], [[1, 2, 3, 4, 5, 6]], [[1e9] * 6], [NAN] * 6, [None], [["1"] * 6], [1, 2, 3, 4], [HUGE] * 4]
MASKS = [{"size": [40, 60], "counts": "zz"}, {"size": [HUGE, 1], "counts": [HUGE]}, {"size": "4060"}, {"counts": []}]
VALUES = [*NUMBERS, *TEXTS, *LISTS, *MASKS]


def mutated(rng):
    content = data_sets.coco()
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        entries = content[rng.choice(["images", "annotations", "annotations", "categories"])]
        k = rng.randrange(len(entries))
        entry, chance = entries[k], rng.random()
        if not isinstance(entry, dict) or chance < 0.05:
            entries[k] = rng.choice(VALUES)
        elif chance < 0.1:
            entries.append(copy.deepcopy(entry))
        else:
            key = rng.choice(list(entry) or ["id"])
            inner = entry.get(key)
            if chance < 0.15:
                entry.pop(key, None)
            elif chance < 0.4 and isinstance(inner, (list, dict)) and inner:
                inner[rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))] = rng.choice(VALUES)
            else:
                entry[key] = rng.choice(VALUES)
    return content


@pytest.mark.parametrize("block", range(4))
def test_mutated_annotations_are_read_alike_or_refused_in_a_sentence(tmp_path, block):
    folder, _ = data_sets.write(tmp_path)
    refused = []
    for seed in range(30 * block, 30 * block + 30):
        content = mutated(random.Random(seed))
        try:
            CocoInstances(folder, copy.deepcopy(content))
        except DataFaultError as error:
            refused.append(str(error))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            dataset = CocoInstances(folder, content, on_fault="skip")
        truth = complete(dataset.coco(), ["segm", "bbox"])
        check_masks(truth, [])
        assert json.dumps(truth)
        targets = [dataset[i][1] for i in range(len(dataset))]
        assert sum(len(t["boxes"]) for t in targets) == sum(not a["iscrowd"] for a in truth["annotations"])
        assert all(len(line) < 3000 for line in validate(folder, content).issue_lines())
    assert 10 < len(refused) < 30
    assert all(len(sentence) < 3000 for sentence in refused)
