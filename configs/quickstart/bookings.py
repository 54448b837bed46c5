#!/usr/bin/env python3
"""Writes the quick start's data set: sentences that ask for a table, answered with one JSON object of five fields.

Usage: bookings.py FOLDER

FOLDER/train.jsonl    640 chats {"messages": [user, assistant]}
FOLDER/test.jsonl     100 chats of sentences that are not in train.jsonl
FOLDER/prompts.jsonl  the user sentences of test.jsonl, one JSON string a line

Everything is drawn from a fixed seed, so the files are the same everywhere.
"""
import json
import os
import random
import sys

NAMES = ["Anna", "Ben", "Chloe", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam",
         "Mara", "Noah", "Olga", "Pablo", "Rosa", "Samir", "Tara", "Viktor", "Wendy", "Yusuf"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
AREAS = {"terrace": ["on the terrace", "outside on the terrace"], "window": ["by the window", "at the window"],
         "bar": ["at the bar", "near the bar"], "garden": ["in the garden", "out in the garden"]}
PEOPLE = {1: ["just me", "one person"], 2: ["two people", "the two of us", "2"], 3: ["three people", "3 of us"],
          4: ["four people", "a party of four", "4"], 5: ["five people", "5 guests"], 6: ["six people", "a group of six"],
          7: ["seven people", "7"], 8: ["eight people", "a party of eight"]}
HOURS = [17, 18, 19, 20, 21]
TEMPLATES = [
    "Hi, this is {name}. Could I get a table {area} for {people} on {day} at {time}?",
    "Please book {people} {area}, {day} {time}, under the name {name}.",
    "{name} here. We would like to come on {day} at {time}, {people}, {area} if possible.",
    "Table for {people} on {day}, {time}, {area}. Name is {name}, thanks!",
    "I'd like to reserve {area} for {day} at {time}. It's for {people}, the name is {name}.",
    "Good morning, {name} speaking, {people} for {day} evening at {time}, {area} please.",
    "Can you hold something {area} at {time} on {day}? {people}, booked as {name}.",
    "Reservation for {name}: {day}, {time}, {people}, {area}.",
]


def spoken_time(rng, hour, minute):
    return rng.choice([f"{hour}:{minute:02d}", f"{hour}.{minute:02d}", f"{hour}:{minute:02d} h"])


def booking(rng):
    hour, minute = rng.choice(HOURS), rng.choice([0, 15, 30, 45])
    fields = {"name": rng.choice(NAMES), "people": rng.choice(list(PEOPLE)), "day": rng.choice(DAYS),
              "time": f"{hour}:{minute:02d}", "area": rng.choice(list(AREAS))}
    sentence = rng.choice(TEMPLATES).format(
        name=fields["name"], people=rng.choice(PEOPLE[fields["people"]]), day=fields["day"],
        time=spoken_time(rng, hour, minute), area=rng.choice(AREAS[fields["area"]]))
    return sentence[0].upper() + sentence[1:], json.dumps(fields)


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    rng = random.Random(20260101)
    seen, chats = set(), []
    while len(chats) < 740:
        sentence, answer = booking(rng)
        if sentence not in seen:
            seen.add(sentence)
            chats.append([{"role": "user", "content": sentence}, {"role": "assistant", "content": answer}])
    for name, part in (("train", chats[:640]), ("test", chats[640:])):
        with open(os.path.join(folder, name + ".jsonl"), "w", encoding="utf-8") as out:
            for messages in part:
                out.write(json.dumps({"messages": messages}) + "\n")
    with open(os.path.join(folder, "prompts.jsonl"), "w", encoding="utf-8") as out:
        for messages in chats[640:]:
            out.write(json.dumps(messages[0]["content"]) + "\n")


if __name__ == "__main__":
    main()
