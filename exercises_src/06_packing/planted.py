"""Wrong solutions of exercise 06, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["sample"]["targets are the inputs"]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# ----------------------------------------------------------------------------------------------- wrong: pack


def _packer(keep=lambda document: bool(document), before=(), after=lambda end, last: [end], owner=None):
    def pack(documents, end):
        tokens, owners, number = [], [], -1
        for i, document in enumerate(documents):
            number += bool(document)
            if keep(document):
                piece = [*(end for _ in before), *document, *after(end, i == len(documents) - 1)]
                tokens += piece
                owners += owner(i, number, piece) if owner else [i] * len(piece)
        return tokens, owners

    return pack


_pack = _packer()

WRONG_PACK = {
    "writes no end tokens": (_packer(after=lambda end, last: []), "end"),
    "puts the end token before": (_packer(before=(1,), after=lambda end, last: []), "end"),
    "leaves out the last end token": (_packer(after=lambda end, last: [] if last else [end]), "end"),
    "writes two end tokens": (_packer(after=lambda end, last: [end, end]), "end"),
    "ends with 0 whatever end is": (_packer(after=lambda end, last: [0]), "empty"),
    "ends empty documents too": (_packer(keep=lambda document: True), "empty"),
    "sorts by length": (lambda documents, end: _pack(sorted(documents, key=len), end), "text"),
    "packs backwards": (lambda documents, end: _pack(documents[::-1], end), "text"),
    "drops documents it has seen": (
        lambda documents, end: _pack([list(d) for d in dict.fromkeys(map(tuple, documents))], end),
        "text",
    ),
    "gives the end token to the next": (
        _packer(owner=lambda i, n, p: [i] * (len(p) - 1) + [i + 1]),
        "owners",
    ),
    "gives the end token to nobody": (_packer(owner=lambda i, n, p: [i] * (len(p) - 1) + [-1]), "owners"),
    "numbers what is left": (_packer(owner=lambda i, n, p: [n] * len(p)), "owners"),
    "numbers from 1": (_packer(owner=lambda i, n, p: [i + 1] * len(p)), "owners"),
    "forgets the end token's owner": (_packer(owner=lambda i, n, p: [i] * (len(p) - 1)), "owners"),
    "returns the tokens alone": (lambda documents, end: _pack(documents, end)[0], "form"),
    "returns lists of lists": (lambda documents, end: ([[*d, end] for d in documents], documents), "form"),
    "asks every document for its last token": (lambda d, end: ([x[-1] for x in d], _pack(d, end))[1], ""),
}

# --------------------------------------------------------------------------------------------- wrong: sample


def _sampler(shift=1, stride=0, start=0, mask=lambda t, pad: False, fill=lambda pad: (pad, -100)):
    """Each argument is one part of the rule gone wrong."""

    def sample(tokens, i, context, pad):
        at = i * (context + stride) + start
        inputs, targets = tokens[at : at + context], tokens[at + shift : at + shift + context]
        inputs = inputs[: len(targets)]
        targets = [-100 if mask(target, pad) else target for target in targets]
        given, target = fill(pad)
        return inputs + [given] * (context - len(inputs)), targets + [target] * (context - len(targets))

    return sample


_sample = _sampler()


def _masks_by_input(tokens, i, context, pad):
    inputs, targets = _sample(tokens, i, context, pad)
    return inputs, [-100 if x == pad else y for x, y in zip(inputs, targets, strict=True)]


def _keeps_last(tokens, i, context, pad):
    inputs = tokens[i * context : (i + 1) * context]
    return inputs + [pad] * (context - len(inputs)), _sample(tokens, i, context, pad)[1]


def _left(tokens, i, context, pad):
    inputs, targets = _sample(tokens, i, context, pad)
    missing = sum(target == -100 for target in targets)
    return [pad] * missing + inputs[: context - missing], [-100] * missing + targets[: context - missing]


def _reaches_back(tokens, i, context, pad):
    """Moves the last window back, so that nothing needs padding: some targets are trained on twice."""
    at = max(0, min(i * context, len(tokens) - context - 1))
    return tokens[at : at + context], tokens[at + 1 : at + context + 1]


def _last_of_window(tokens, i, context, pad):
    """Shifts inside the window, so that its last place has no target."""
    inputs = tokens[i * context : (i + 1) * context]
    inputs += [pad] * (context - len(inputs))
    return inputs, [*inputs[1:], -100]


WRONG_SAMPLE = {
    "targets are the inputs": (_sampler(shift=0), "shift"),
    "shifts twice": (_sampler(shift=2), "start"),
    "shifts backwards": (
        lambda t, i, c, p: (_sample(t, i, c, p)[0], [p, *_sample(t, i, c, p)[0]][:c]),
        "shift",
    ),
    "swaps inputs and targets": (lambda t, i, c, p: _sample(t, i, c, p)[::-1], "start"),
    "shifts inside the window": (_last_of_window, "real"),
    "steps by context + 1": (_sampler(stride=1), "start"),
    "begins at token 1": (_sampler(start=1), "start"),
    "moves by one token": (lambda t, i, c, p: _sampler(start=i - i * c)(t, i, c, p), "start"),
    "masks targets of the padding's id": (_sampler(mask=lambda target, pad: target == pad), "real"),
    "masks where the input is the padding's id": (_masks_by_input, "real"),
    "pads targets with pad": (_sampler(fill=lambda pad: (pad, pad)), "pad"),
    "pads targets with -1": (_sampler(fill=lambda pad: (pad, -1)), "pad"),
    "pads inputs with -100": (_sampler(fill=lambda pad: (-100, -100)), "pad"),
    "pads inputs with 0 whatever pad is": (_sampler(fill=lambda pad: (0, -100)), "pad"),
    "keeps the last token as an input": (_keeps_last, "pad"),
    "pads on the left": (_left, "start"),
    "moves the last window back": (_reaches_back, "form"),
    "does not pad": (lambda t, i, c, p: (t[i * c : -1][:c], t[i * c + 1 :][:c]), "form"),
    "returns pairs": (lambda t, i, c, p: list(zip(*_sample(t, i, c, p), strict=True)), "form"),
    "reads past the end": (
        lambda t, i, c, p: ([t[i * c + j] for j in range(c)], [t[i * c + j + 1] for j in range(c)]),
        "",
    ),
}

# ----------------------------------------------------------------------------------------------- wrong: mask


def _masker(rule, diagonal=True):
    def document_mask(owners):
        places = range(len(owners))
        return [[(diagonal and k == q) or bool(rule(owners, q, k)) for k in places] for q in places]

    return document_mask


def _same(owners, q, k):
    return k <= q and owners[q] == owners[k] != -1


def _renumbers(owners):
    rank = {owner: i for i, owner in enumerate(sorted(set(owners) - {-1}))}
    return _masker(_same)([rank[owner] for owner in owners])


WRONG_MASK = {
    "leaves padded rows empty": (_masker(_same, diagonal=False), "self"),
    "sees only what came before": (
        _masker(lambda o, q, k: k < q and o[q] == o[k] != -1, diagonal=False),
        "self",
    ),
    "sees the whole document": (_masker(lambda o, q, k: o[q] == o[k] != -1), "causal"),
    "turns queries and keys round": (_masker(lambda o, q, k: k >= q and o[q] == o[k] != -1), "causal"),
    "is causal and nothing more": (_masker(lambda o, q, k: k <= q and o[k] != -1), "border"),
    "is causal, padding and all": (_masker(lambda o, q, k: k <= q), "border"),
    "sees the document before too": (
        _masker(lambda o, q, k: k <= q and o[k] != -1 and o[q] - o[k] in (0, 1)),
        "border",
    ),
    "takes padding for a document": (_masker(lambda o, q, k: k <= q and o[q] == o[k]), "padding"),
    "lets padding see all padding": (_masker(lambda o, q, k: _same(o, q, k) or o[q] == o[k] == -1), "causal"),
    "sees itself only": (_masker(lambda o, q, k: k == q), "own"),
    "looks back two places": (_masker(lambda o, q, k: _same(o, q, k) and q - k <= 2), "own"),
    "sees the first token and itself": (
        _masker(lambda o, q, k: _same(o, q, k) and k == o.index(o[q])),
        "own",
    ),
    "adds up: 0 and -inf": (
        lambda owners: torch.where(torch.tensor(_masker(_same)(owners)), 0.0, -torch.inf),
        "form",
    ),
    "returns one row": (lambda owners: _masker(_same)(owners)[-1], "form"),
    "says where not to look": (lambda owners: ~torch.tensor(_masker(_same)(owners)), "self"),
    "looks up padding's document": (_renumbers, ""),
}

# ----------------------------------------------------------------------------------------------- wrong: loss


def _loss(
    lse=lambda z: torch.logsumexp(z, -1),
    keep=lambda t: t != -100,
    over=None,
    rows=lambda z: z,
    target=lambda z: z,
):
    def masked_loss(logits, targets):
        kept = keep(targets)
        z, t = rows(logits[kept]), targets[kept].clamp(min=0)
        lost = lse(z) - target(z).gather(1, t[:, None])[:, 0]
        return lost.sum() / (over(targets) if over else max(1, len(t)))

    return masked_loss


def _nan_for_nothing(logits, targets):
    return F.cross_entropy(logits, targets)


def _constant_for_nothing(logits, targets):
    if bool((targets == -100).all()):
        return torch.tensor(0.0)
    return F.cross_entropy(logits, targets)


def _naive(logits, targets):
    kept = targets != -100
    p = logits[kept].exp() / logits[kept].exp().sum(-1, keepdim=True)
    return -p.gather(1, targets[kept][:, None]).log().sum() / max(1, int(kept.sum()))


def _last_place(logits, targets):
    kept = targets != -100
    return _loss()(logits[kept][-1:], targets[kept][-1:])


def _smoothed(logits, targets):
    kept = max(1, int((targets != -100).sum()))
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.1) / kept


def _masks_after_the_mean(logits, targets):
    kept = targets != -100
    return _loss(keep=lambda t: t > -999)(logits, targets) * kept.float().mean()


WRONG_LOSS = {
    "returns NaN for no target": (_nan_for_nothing, "none"),
    "returns a constant for no target": (_constant_for_nothing, "none"),
    "detaches the logsumexp": (_loss(lse=lambda z: torch.logsumexp(z, -1).detach()), "gradient"),
    "detaches the target's logit": (_loss(target=lambda z: z.detach()), "gradient"),
    "returns the bare number": (lambda logits, targets: _loss()(logits, targets).item(), "gradient"),
    "takes the softmax twice": (_loss(rows=lambda z: torch.softmax(z, -1)), "value"),
    "has the wrong sign": (lambda logits, targets: -_loss()(logits, targets), "value"),
    "counts in bits": (lambda logits, targets: _loss()(logits, targets) / 0.6931472, "value"),
    "smooths the labels": (_smoothed, "value"),
    "divides by all places": (_loss(over=len), "mean"),
    "returns the sum": (_loss(over=lambda t: 1), "mean"),
    "counts padding as token 0": (_loss(keep=lambda t: t > -999), "mask"),
    "masks after the mean": (_masks_after_the_mean, "mask"),
    "leaves out token 0": (_loss(keep=lambda t: t > 0), "value"),
    "takes the last target only": (_last_place, "value"),
    "exponentiates the logits": (_naive, "stable"),
    "returns a loss per place": (lambda z, t: F.cross_entropy(z, t, reduction="none"), "form"),
    "indexes with -100": (lambda z, t: -torch.log_softmax(z, -1).gather(1, t[:, None]).mean(), ""),
}

WRONG = {"pack": WRONG_PACK, "sample": WRONG_SAMPLE, "document_mask": WRONG_MASK, "masked_loss": WRONG_LOSS}

# ---------------------------------------------------------------------------------- right ones, other styles


def pack_comprehension(documents, end):
    pairs = [(token, i) for i, d in enumerate(documents) if d for token in [*d, end]]
    return [token for token, _ in pairs], [i for _, i in pairs]


def pack_tensors(documents, end):
    tokens, owners = pack_comprehension(documents, end)
    return torch.tensor(tokens, dtype=torch.int64), torch.tensor(owners, dtype=torch.int64)


def pack_extend(documents, end):
    tokens, owners = [], []
    for i in range(len(documents)):
        if not len(documents[i]):
            continue
        tokens.extend(documents[i])
        tokens.append(end)
        owners.extend([i] * (len(tokens) - len(owners)))
    return [tokens, owners]


def sample_places(tokens, i, context, pad):
    places = range(i * context, (i + 1) * context)
    last = len(tokens) - 1
    return [tokens[p] if p < last else pad for p in places], [
        tokens[p + 1] if p < last else -100 for p in places
    ]


def sample_tensors(tokens, i, context, pad):
    inputs = torch.full((context,), pad)
    targets = torch.full((context,), -100)
    piece = torch.tensor(tokens)[i * context : (i + 1) * context + 1]
    inputs[: len(piece) - 1], targets[: len(piece) - 1] = piece[:-1], piece[1:]
    return inputs, targets


def sample_padded_stream(tokens, i, context, pad):
    x, y = tokens[:-1] + [pad] * context, tokens[1:] + [-100] * context
    return torch.stack([torch.tensor(z[i * context : (i + 1) * context]) for z in (x, y)])


def mask_loops(owners):
    n = len(owners)
    mask = [[False] * n for _ in range(n)]
    for q in range(n):
        for k in range(q, -1, -1):
            if owners[k] != owners[q] or (owners[q] == -1 and k < q):
                break
            mask[q][k] = True
    return mask


def mask_numpy(owners):
    import numpy as np

    own = np.array(owners)
    own = np.where(own < 0, -1 - np.arange(len(own)), own)  # every padded place an owner of its own
    return np.tril(own[:, None] == own)


def mask_rows(owners):
    o = torch.tensor(owners)
    return torch.stack(
        [
            ((o == o[q]) & (o[q] >= 0) & (torch.arange(len(o)) < q)) | (torch.arange(len(o)) == q)
            for q in range(len(o))
        ]
    )


def loss_library(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum") / max(1, int((targets != -100).sum()))


def loss_where(logits, targets):
    kept = targets != -100
    lost = torch.logsumexp(logits, 1) - logits[torch.arange(len(targets)), targets.clamp(min=0)]
    return torch.where(kept, lost, 0.0).sum() / kept.sum().clamp(min=1)


def loss_double(logits, targets):
    total, count = logits.double().sum() * 0, 0
    for row, target in zip(logits.double(), targets.tolist(), strict=True):
        if target != -100:
            total, count = (
                total + torch.log(torch.exp(row - row.max()).sum()) + row.max() - row[target],
                count + 1,
            )
    return total / count if count else total


RIGHT = {
    "pack": [pack_comprehension, pack_tensors, pack_extend],
    "sample": [sample_places, sample_tensors, sample_padded_stream],
    "document_mask": [mask_loops, mask_numpy, mask_rows],
    "masked_loss": [loss_library, loss_where, loss_double],
}
