"""Wrong solutions of exercise 22, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["route"]["the softmax is not renormalised"]
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch


def _sizes(total=None, active=None, form=lambda t, a: {"total": t, "active": a}, **parts):
    def moe_sizes(config):
        c, d = config, config["width"]
        count = {
            "embedding": lambda: c["vocab"] * d,
            "attention": lambda: 4 * d * d * c["layers"],
            "dense": lambda: 3 * d * c["dense_hidden"] * c["dense_layers"],
            "sparse": lambda: c["layers"] - c["dense_layers"],
            "router": lambda: d * c["experts"],
            "expert": lambda: 3 * d * c["expert_hidden"],
        } | {name: (lambda rule=rule: rule(c, d)) for name, rule in parts.items()}
        rest = (
            count["embedding"]()
            + count["attention"]()
            + count["dense"]()
            + count["sparse"]() * count["router"]()
        )
        each = count["sparse"]() * count["expert"]()
        whole = (total or (lambda c: c["experts"] + c["shared"]))(c)
        used = (active or (lambda c: c["top_k"] + c["shared"]))(c)
        return form(rest + each * whole, rest + each * used)

    return moe_sizes


WRONG_SIZES = {
    "no router": (_sizes(router=lambda c, d: 0), "all"),
    "two matrices an expert": (_sizes(expert=lambda c, d: 2 * d * c["expert_hidden"]), "all"),
    "attention of 3 matrices": (_sizes(attention=lambda c, d: 3 * d * d * c["layers"]), "all"),
    "no embedding": (_sizes(embedding=lambda c, d: 0), "all"),
    "an untied head": (_sizes(embedding=lambda c, d: 2 * c["vocab"] * d), "all"),
    "active is all": (_sizes(active=lambda c: c["experts"] + c["shared"]), "used"),
    "active is one": (_sizes(active=lambda c: 1 + c["shared"]), "used"),
    "active is a share of the total": (
        lambda c: {
            "total": _sizes()(c)["total"],
            "active": _sizes()(c)["total"] * c["top_k"] // c["experts"],
        },
        "used",
    ),
    "shared ones are among the experts": (_sizes(total=lambda c: c["experts"]), "shared"),
    "shared ones are not used": (_sizes(active=lambda c: c["top_k"]), "shared"),
    "shared ones are among the top k": (_sizes(active=lambda c: max(c["top_k"], c["shared"])), "shared"),
    "experts in every layer": (_sizes(sparse=lambda c, d: c["layers"]), "dense"),
    "no dense layers": (_sizes(dense=lambda c, d: 0), "dense"),
    "dense layers in place of attention": (
        _sizes(attention=lambda c, d: 4 * d * d * (c["layers"] - c["dense_layers"])),
        "dense",
    ),
    "a pair": (_sizes(form=lambda t, a: (t, a)), "form"),
}


def _route(
    soft=lambda row: [math.exp(x - max(row)) for x in row],
    order=lambda w: sorted(range(len(w)), key=lambda e: -w[e]),
    scale=lambda kept, all_: sum(kept),
    pair=lambda e, w: [e, w],
):
    def route(logits, top_k):
        found = []
        for row in logits:
            weights = soft(row)
            chosen = order(weights)[:top_k]
            whole = scale([weights[e] for e in chosen], weights)
            found.append([pair(e, weights[e] / whole) for e in chosen])
        return found

    return route


def _naive(row):
    with np.errstate(over="ignore", invalid="ignore"):
        return [float(x) for x in np.exp(np.array(row))]


def _nan(row):
    return [x if math.isfinite(x) else math.nan for x in _naive(row)]


WRONG_ROUTE = {
    "the softmax is not renormalised": (_route(scale=lambda kept, w: sum(w)), "sum"),
    "divided by the largest": (_route(scale=lambda kept, w: max(kept)), "sum"),
    "even weights": (_route(soft=lambda row: [1.0 + 1e-9 * x for x in row]), "softmax"),
    "logits as weights": (_route(soft=lambda row: [x - min(row) + 1e-12 for x in row]), "softmax"),
    "base 2": (_route(soft=lambda row: [2 ** (x - max(row)) for x in row]), "softmax"),
    "squared": (_route(soft=lambda row: [math.exp(2 * (x - max(row))) for x in row]), "softmax"),
    "the smallest": (_route(order=lambda w: sorted(range(len(w)), key=lambda e: w[e])), "largest"),
    "the first k": (_route(order=lambda w: list(range(len(w)))), "order"),
    "in the order of the experts": (
        lambda logits, k: [sorted(token) for token in _route()(logits, k)],
        "order",
    ),
    "the later one of equal ones": (
        _route(order=lambda w: sorted(range(len(w)), key=lambda e: (-w[e], -e))),
        "order",
    ),
    "overflows": (_route(soft=_nan), "large"),
    "experts counted from 1": (_route(pair=lambda e, w: [e + 1, w]), "order"),
    "weight first": (_route(pair=lambda e, w: [w, e]), "order"),
    "one expert too many": (lambda logits, k: _route()(logits, k + 1), "form"),
    "experts alone": (_route(pair=lambda e, w: e), "form"),
    "math.exp of 1,000": (_route(soft=lambda row: [math.exp(x) for x in row]), ""),
}


def _room(
    serve=None, dropped=lambda lost, asked, tokens: lost / asked, share=None, mean=None, factor=lambda e: e,
    form=lambda load, d, b: {"load": load, "dropped": d, "balance": b},
):  # fmt: skip
    def room_and_balance(chosen, probabilities, capacity):
        experts, asked = len(probabilities[0]), [e for token in chosen for e in token]
        load = (serve or _serve)(asked, experts, capacity)
        f = (share or (lambda asked, load, chosen: [asked.count(e) / len(asked) for e in range(experts)]))(
            asked, load, chosen
        )
        p = (mean or (lambda rows, chosen: [sum(r[e] for r in rows) / len(rows) for e in range(experts)]))(
            probabilities, chosen
        )
        balance = factor(experts) * sum(a * b for a, b in zip(f, p, strict=True))
        return form(load, dropped(len(asked) - sum(load), len(asked), len(chosen)), balance)

    return room_and_balance


def _serve(asked, experts, capacity):
    return [min(capacity, asked.count(e)) for e in range(experts)]


def _of_served(asked, load, chosen):
    return [n / max(1, sum(load)) for n in load]


def _per_token(asked, load, chosen):
    return [asked.count(e) / len(chosen) for e in range(len(load))]


def _of_chosen(rows, chosen):
    return [
        sum(r[e] for r, token in zip(rows, chosen, strict=True) if e in token) / len(rows)
        for e in range(len(rows[0]))
    ]


WRONG_ROOM = {
    "no capacity": (_room(serve=lambda a, e, c: [a.count(x) for x in range(e)]), "load"),
    "room for one less": (
        _room(serve=lambda a, e, c: [min(max(c - 1, 0), a.count(x)) for x in range(e)]),
        "load",
    ),
    "one capacity for all": (_room(serve=lambda a, e, c: [a[:c].count(x) for x in range(e)]), "load"),
    "only experts that were asked": (
        _room(serve=lambda a, e, c: [min(c, n) for n in Counter(a).values()]),
        "load",
    ),
    "number of dropped": (_room(dropped=lambda lost, asked, tokens: lost), "dropped"),
    "dropped of the tokens": (_room(dropped=lambda lost, asked, tokens: lost / tokens), "dropped"),
    "the share that was served": (_room(dropped=lambda lost, asked, tokens: 1 - lost / asked), "dropped"),
    "without the factor": (_room(factor=lambda e: 1), "even"),
    "the factor twice": (_room(factor=lambda e: e * e), "even"),
    "f of the served": (_room(share=_of_served), "balance"),
    "f of the tokens": (_room(share=_per_token), "balance"),
    "P of the chosen alone": (_room(mean=_of_chosen), "even"),
    "P of the first token": (_room(mean=lambda rows, chosen: [2 * x for x in rows[0]]), "even"),
    "f squared": (_room(mean=lambda rows, chosen: [1 / len(rows[0])] * len(rows[0])), "balance"),
    "a triple": (_room(form=lambda load, d, b: (load, d, b)), "form"),
}
WRONG = {"moe_sizes": WRONG_SIZES, "route": WRONG_ROUTE, "room_and_balance": WRONG_ROOM}


# ----------------------------------------------------------------------------------- right, in other styles


def sizes_by_layer(config):
    total = active = config["vocab"] * config["width"]
    for layer in range(config["layers"]):
        matrices = [4 * config["width"] ** 2]
        if layer < config["dense_layers"]:
            matrices.append(3 * config["width"] * config["dense_hidden"])
            total, active = total + sum(matrices), active + sum(matrices)
            continue
        matrices.append(config["width"] * config["experts"])
        one = 3 * config["width"] * config["expert_hidden"]
        total += sum(matrices) + (config["experts"] + config["shared"]) * one
        active += sum(matrices) + (config["top_k"] + config["shared"]) * one
    return {"active": active, "total": total}


def sizes_by_difference(config):
    found = _sizes()(config)
    idle = (config["experts"] - config["top_k"]) * 3 * config["width"] * config["expert_hidden"]
    idle *= config["layers"] - config["dense_layers"]
    return {"total": torch.tensor(found["total"]), "active": found["total"] - idle}


def route_torch(logits, top_k):
    soft = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    order = torch.sort(soft, dim=-1, descending=True, stable=True)
    kept = order.values[:, :top_k] / order.values[:, :top_k].sum(-1, keepdim=True)
    return [
        [[int(e), float(w)] for e, w in zip(*pair, strict=True)]
        for pair in zip(order.indices[:, :top_k], kept, strict=True)
    ]


def route_numpy(logits, top_k):
    found = []
    for row in np.array(logits):
        chosen = np.argsort(-row, kind="stable")[:top_k]
        kept = np.exp(row[chosen] - row[chosen[0]])
        found.append([(e, w) for e, w in zip(chosen, kept / kept.sum(), strict=True)])
    return found


def room_numpy(chosen, probabilities, capacity):
    asked = np.array(chosen).ravel()
    counts = np.bincount(asked, minlength=len(probabilities[0]))
    load = np.minimum(counts, capacity)
    balance = len(counts) * np.dot(counts / asked.size, np.mean(probabilities, axis=0))
    return {"load": load.tolist(), "dropped": (counts - load).sum() / asked.size, "balance": balance}


def room_by_walk(chosen, probabilities, capacity):
    left, lost, asked = [capacity] * len(probabilities[0]), 0, Counter()
    for token in chosen:
        for expert in token:
            asked[expert] += 1
            lost += left[expert] == 0
            left[expert] -= left[expert] > 0
    n = sum(asked.values())
    columns = list(zip(*probabilities, strict=True))
    balance = sum(asked[e] * sum(c) / len(c) for e, c in enumerate(columns)) * len(columns) / n
    return {"balance": balance, "dropped": lost / n, "load": [capacity - free for free in left]}


RIGHT = {
    "moe_sizes": [sizes_by_layer, sizes_by_difference, _sizes()],
    "route": [route_torch, route_numpy, _route()],
    "room_and_balance": [room_numpy, room_by_walk, _room()],
}
