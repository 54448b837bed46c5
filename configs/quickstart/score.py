#!/usr/bin/env python3
"""Compares answers of `qlora generate --json` with the expected ones and prints the before/after table.

Usage: score.py TEST.jsonl BEFORE.jsonl AFTER.jsonl

Exact match: the answer, read as JSON, equals the expected object. Exit status 1 when fewer than 95 % match after
training, or when any did before.
"""
import json
import sys


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def cut(text, width=58):
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."


def main():
    tests, before, after = (read(path) for path in sys.argv[1:4])
    assert len(tests) == len(before) == len(after), "each file must hold one line per test sentence"
    expected = [json.loads(test["messages"][1]["content"]) for test in tests]
    answers = {"before": [row["text"] for row in before], "after": [row["text"] for row in after]}
    right = {when: sum(parsed(a) == e for a, e in zip(texts, expected)) for when, texts in answers.items()}
    for i in range(3):
        print(f"sentence  {tests[i]['messages'][0]['content']}")
        print(f"  before  {cut(answers['before'][i])}")
        print(f"  after   {cut(answers['after'][i], 90)}\n")
    total = len(tests)
    print(f"{'':10}exact match on {total} unseen sentences")
    for when in ("before", "after"):
        print(f"{when:10}{right[when]:4d}  ({100 * right[when] / total:.0f} %)")
    return 0 if right["before"] == 0 and right["after"] >= 0.95 * total else 1


if __name__ == "__main__":
    sys.exit(main())
