# %% [markdown]
# # Exercise 03: the schema check
#
# **Three functions, about 40 minutes, 51 lines in all.** A corpus of JSONL comes in overnight: ten million
# lines, one document each. Somewhere in it a crawler wrote `null` for a text, an exporter wrote ids as
# floats, a line was cut off, and a file is empty because a job died. A loader that is forgiving trains on
# the word "None"; one that skips what it cannot read loses a source without a word.
#
# A schema check stands before the data. It reports *every* violation with line, field and what was found, so
# that whoever owns the source can mend it in one round. It never passes in silence: nothing to check is a
# failure too.
#
# After this you can write such a check, and name four things that `json.loads` lets through.
#
# Fill in the `...`, run the cell, and `check` it on public examples. `hint(json_type, 1)` says a little,
# `hint(json_type, 3)` nearly everything. The grade comes from `llmkit grade exercises/03_schema.ipynb`, on
# inputs that nobody has seen.
# Or save this notebook and run `from llmkit.grade import grade_me; grade_me()` in a cell: the same verdict.

# %%
import json
import math

from llmkit.grade import open_exercise

check, hint, predict = open_exercise("03_schema")

# %% [markdown]
# ## 1. The type of a value
#
# The name of the JSON type of a value that `json.loads` returned: `null`, `boolean`, `integer`, `number`,
# `string`, `array` or `object`. What was read as an int is an integer, what was read as a float is a number.
#
# | value | returns |
# |---|---|
# | `None` | `"null"` |
# | `True` | `"boolean"` |
# | `1` | `"integer"` |
# | `1.0` | `"number"` |
# | `[]` | `"array"` |


# %%
def json_type(value: object) -> str:
    # BEGIN SOLUTION: about 10 lines
    names = {
        type(None): "null",
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
    }
    return names[type(value)]
    # END SOLUTION


check(json_type)

# %% [markdown]
# ## Predict
#
# `json.loads("[NaN, Infinity, 1e999, true]")` returns four values. **How many of them pass
# `isinstance(value, (int, float))`?** Put your number in place of `None`, then run the cell.

# %%
guess = None  # for example 2
# BEGIN SOLUTION
guess = 4
# END SOLUTION
predict("numbers that pass", guess)

# %% [markdown]
# ## 2. One document
#
# Return every violation as `(field, found)`, both text. `fields` says what a document holds:
# `{"text": {"type": "string", "required": True}, ...}`; the types are `string`, `integer` and `number`.
#
# - A document that is no object: one violation, `("", its type)`.
# - A required field that is not there: `(field, "missing")`. A field that is not required may be absent.
# - A value of another type: `(field, its type)`. An integer serves as a number. `null` is a type like
#   another.
# - Of the right type and wrong all the same: a string of white space only, or empty, is `"blank"`; a string
#   with half a character (U+D800 to U+DFFF) is `"half character"`; an integer field below 0 is
#   `"negative"`; a number that is infinite is `"infinite"`.
# - At most one violation per field, the first of these. In the order of `fields`. Unknown fields are ignored.
#
# With `text` (string) and `id` (integer) required, `score` (number) and `source` (string) not:
#
# | document | returns |
# |---|---|
# | `{"text": "a b", "id": 0}` | `[]` |
# | `{"text": "a b", "id": True}` | `[("id", "boolean")]` |
# | `{"text": "a b", "id": 0, "source": None}` | `[("source", "null")]` |
# | `{"source": "", "text": ""}` | `[("text", "blank"), ("id", "missing"), ("source", "blank")]` |
# | `["text", "id"]` | `[("", "array")]` |


# %%
def check_document(document: object, fields: dict[str, dict]) -> list[tuple[str, str]]:
    # BEGIN SOLUTION: about 18 lines
    if json_type(document) != "object":
        return [("", json_type(document))]
    violations = []
    for name, rule in fields.items():
        value = document.get(name)
        kind, wanted = json_type(value), rule["type"]
        if name not in document:
            if rule["required"]:
                violations.append((name, "missing"))
        elif kind != wanted and (kind, wanted) != ("integer", "number"):
            violations.append((name, kind))
        elif kind == "string" and not value.strip():
            violations.append((name, "blank"))
        elif kind == "string" and any("\ud800" <= c <= "\udfff" for c in value):
            violations.append((name, "half character"))
        elif (wanted == "integer" and value < 0) or (kind == "number" and not math.isfinite(value)):
            violations.append((name, "negative" if wanted == "integer" else "infinite"))
    return violations
    # END SOLUTION


check(check_document)

# %% [markdown]
# ## 3. A file
#
# Return every violation in the file at `path` as `(line, field, found)`. Lines count from 1 and end at a line
# feed, at nothing else: a text may hold U+2028 or U+0085. A line feed at the end of the file begins no new
# line.
#
# Each line, in this order:
#
# - Bytes that are not UTF-8: `(line, "", "not UTF-8")`.
# - White space only, or nothing: `(line, "", "blank line")`.
# - Not JSON: `(line, "", "not JSON")`. Python reads NaN, Infinity and -Infinity; JSON does not have them.
# - Else whatever `check_document` finds. Then, if the document has an id and nothing is wrong with it, and an
#   earlier such line has the same: `(line, "id", "seen on line N")`, N being the first line with that id.
#
# A broken line never ends the check. A file without a single byte is `[(0, "", "no document")]`.
#
# | lines | returns |
# |---|---|
# | none, an empty file | `[(0, "", "no document")]` |
# | `{` | `[(1, "", "not JSON")]` |
# | `{"text": "", "id": -1}` | `[(1, "text", "blank"), (1, "id", "negative")]` |
# | `{"text": "a", "id": 1}` twice | `[(2, "id", "seen on line 1")]` |
#
# In `check`, `lines` are joined by line feeds and followed by `end`. `\udcff` stands for the byte 0xFF there,
# `\udce9` for 0xE9: neither is UTF-8 by itself.


# %%
def check_file(path: str, fields: dict[str, dict]) -> list[tuple[int, str, str]]:
    # BEGIN SOLUTION: about 23 lines
    def refuse(constant):
        raise ValueError(constant)

    violations, seen, number = [], {}, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8")
                document = json.loads(text, parse_constant=refuse) if text.strip() else None
            except UnicodeDecodeError:
                violations.append((number, "", "not UTF-8"))
                continue
            except ValueError:
                violations.append((number, "", "not JSON"))
                continue
            found = check_document(document, fields) if text.strip() else [("", "blank line")]
            violations += [(number, *row) for row in found]
            wrong = {name for name, _ in found}
            if not wrong & {"id", ""} and "id" in document:
                first = seen.setdefault(document["id"], number)
                if first != number:
                    violations.append((number, "id", f"seen on line {first}"))
    return violations if number else [(0, "", "no document")]
    # END SOLUTION


check(check_file)

# %% [markdown]
# ## Say it in an interview
#
# *Your CI checks the data schema. How do you know that the check works?* By its failures: a planted file for
# every rule, which must be refused with the right line and field, and a good file with everything that is
# allowed, which must pass. And by what it counts: a check that saw no document fails. The step prints the
# number of lines it read, so that a pass on an empty folder cannot look like a pass.
#
# Follow-ups: The corpus has 10⁹ lines: how do you find repeated ids in bounded memory? A source breaks 0.1
# percent of its lines: do you stop the build, drop them, or mend them, and who is told? Which violations can
# a schema not see?
